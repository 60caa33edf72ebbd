package io.github.countersign.verify;

import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * How and when the caller was authenticated.
 *
 * @param methods any of {@code certificate}, {@code token}, {@code api-key}
 * @param at when the caller last proved that it holds the certificate's key
 * @param resumed whether the TLS session was resumed
 * @param trustDomain the trust domain that verified the certificate; empty without a certificate
 * @param revocation {@code checked}, {@code soft} or {@code off}; empty without a certificate
 * @param crlThisUpdate {@code thisUpdate} of the revocation list, if one was checked
 */
public record Authentication(
        List<String> methods,
        Instant at,
        boolean resumed,
        Optional<String> trustDomain,
        Optional<String> revocation,
        Optional<Instant> crlThisUpdate) {
    private static final Set<String> REVOCATIONS = Set.of("checked", "soft", "off");

    static Authentication from(Members members) {
        Optional<String> revocation = Optional.ofNullable(members.optionalText("revocation"));
        if (revocation.isPresent() && !REVOCATIONS.contains(revocation.get())) {
            throw Members.malformed();
        }
        return new Authentication(
                members.texts("methods"),
                Caller.instant(members.integer("at")),
                members.bool("resumed"),
                Optional.ofNullable(members.optionalText("trust_domain")),
                revocation,
                Optional.ofNullable(members.optionalInteger("crl_this_update")).map(Caller::instant));
    }
}
