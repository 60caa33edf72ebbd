package io.github.countersign.verify;

import java.time.Instant;

/**
 * The caller's leaf certificate.
 *
 * @param x5tS256 hash of its DER
 * @param serial serial number, lower-case hexadecimal
 * @param issuer issuer name as text (RFC 4514)
 * @param notBefore begin of its validity
 * @param notAfter end of its validity
 * @param sans alternative names
 * @param anchor hash of the root certificate of the path
 * @param sansTruncated whether it has more alternative names
 */
public record ClientCertificate(
        String x5tS256,
        String serial,
        String issuer,
        Instant notBefore,
        Instant notAfter,
        SubjectAlternativeNames sans,
        String anchor,
        boolean sansTruncated) {
    static ClientCertificate from(Members members) {
        return new ClientCertificate(
                members.text("x5t#S256"),
                members.text("serial"),
                members.text("issuer"),
                Caller.instant(members.integer("not_before")),
                Caller.instant(members.integer("not_after")),
                SubjectAlternativeNames.from(members.members("sans")),
                members.text("anchor"),
                members.has("sans_truncated") && members.bool("sans_truncated"));
    }
}
