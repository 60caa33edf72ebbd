package io.github.countersign.verify;

import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.Set;

record VerifiedAuthentication(
        List<String> methods,
        Instant at,
        boolean resumed,
        Optional<String> trustDomain,
        Optional<String> revocation,
        Optional<Instant> crlThisUpdate,
        Optional<String> x5tS256)
        implements Authentication {
    private static final Set<String> REVOCATIONS = Set.of("checked", "soft", "off");

    static Authentication from(Members members) {
        Optional<String> revocation = Optional.ofNullable(members.optionalText("revocation"));
        if (revocation.isPresent() && !REVOCATIONS.contains(revocation.get())) {
            throw Members.malformed();
        }
        return new VerifiedAuthentication(
                members.texts("methods"),
                members.instant("at"),
                members.bool("resumed"),
                Optional.ofNullable(members.optionalText("trust_domain")),
                revocation,
                Optional.ofNullable(members.optionalInstant("crl_this_update")),
                Optional.ofNullable(members.optionalText("x5t#S256")));
    }
}
