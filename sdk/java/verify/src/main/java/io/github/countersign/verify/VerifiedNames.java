package io.github.countersign.verify;

import java.util.List;

record VerifiedNames(List<String> uri, List<String> dns, List<String> email, List<String> ip)
        implements SubjectAlternativeNames {
    static SubjectAlternativeNames from(Members sans) {
        return new VerifiedNames(texts(sans, "uri"), texts(sans, "dns"), texts(sans, "email"), texts(sans, "ip"));
    }

    private static List<String> texts(Members sans, String name) {
        return sans.has(name) ? sans.texts(name) : List.of();
    }
}
