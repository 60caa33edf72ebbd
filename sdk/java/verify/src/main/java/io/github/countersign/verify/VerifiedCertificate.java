package io.github.countersign.verify;

import java.time.Instant;

record VerifiedCertificate(
        String x5tS256,
        String serial,
        String issuer,
        Instant notBefore,
        Instant notAfter,
        SubjectAlternativeNames sans,
        String anchor,
        boolean sansTruncated,
        boolean issuerTruncated)
        implements ClientCertificate {
    static ClientCertificate from(Members members) {
        return new VerifiedCertificate(
                members.text("x5t#S256"),
                members.text("serial"),
                members.text("issuer"),
                members.instant("not_before"),
                members.instant("not_after"),
                VerifiedNames.from(members.members("sans")),
                members.text("anchor"),
                members.flag("sans_truncated"),
                members.flag("issuer_truncated"));
    }
}
