package io.github.countersign.verify;

import java.util.List;

/**
 * The names of a certificate by type, as in the certificate.
 *
 * @param uri URIs
 * @param dns DNS names
 * @param email mail addresses
 * @param ip addresses
 */
public record SubjectAlternativeNames(List<String> uri, List<String> dns, List<String> email, List<String> ip) {
    static SubjectAlternativeNames from(Members sans) {
        return new SubjectAlternativeNames(
                texts(sans, "uri"), texts(sans, "dns"), texts(sans, "email"), texts(sans, "ip"));
    }

    private static List<String> texts(Members sans, String name) {
        return sans.has(name) ? sans.texts(name) : List.of();
    }
}
