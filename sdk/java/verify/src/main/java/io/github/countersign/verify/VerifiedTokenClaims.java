package io.github.countersign.verify;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

record VerifiedTokenClaims(
        String iss,
        Optional<String> sub,
        Optional<String> clientId,
        Optional<String> scope,
        Optional<String> jti,
        Optional<String> ath,
        Map<String, Object> other)
        implements TokenClaims {
    private static final List<String> KNOWN = List.of("iss", "sub", "client_id", "scope", "jti", "ath");

    static TokenClaims from(Members members) {
        Map<String, Object> other = new LinkedHashMap<>(members.raw());
        KNOWN.forEach(other::remove);
        return new VerifiedTokenClaims(
                members.text("iss"),
                Optional.ofNullable(members.optionalText("sub")),
                Optional.ofNullable(members.optionalText("client_id")),
                Optional.ofNullable(members.optionalText("scope")),
                Optional.ofNullable(members.optionalText("jti")),
                Optional.ofNullable(members.optionalText("ath")),
                Collections.unmodifiableMap(other));
    }

    /** Shows no claims, because they may contain personal data. */
    @Override
    public String toString() {
        return "TokenClaims";
    }
}
