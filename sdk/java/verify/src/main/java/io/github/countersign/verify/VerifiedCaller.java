package io.github.countersign.verify;

import java.time.Instant;
import java.util.Map;
import java.util.Optional;

record VerifiedCaller(
        String iss,
        String aud,
        String sub,
        Instant iat,
        Instant exp,
        Authentication authn,
        Optional<ClientCertificate> certificate,
        Optional<TokenClaims> token,
        Optional<String> jti,
        Optional<String> txn,
        Optional<String> htm,
        Optional<String> htu,
        Optional<String> htq,
        Optional<String> htb,
        Map<String, Object> claims)
        implements Caller {
    /** Checks the types of all known claims. Unknown ones are ignored, because later versions may add some. */
    static Caller from(Map<String, Object> claims) {
        Members root = new Members(claims);
        Members certificate = root.optionalMembers("client_cert");
        Members token = root.optionalMembers("token");
        return new VerifiedCaller(
                root.text("iss"),
                root.text("aud"),
                root.text("sub"),
                root.instant("iat"),
                root.instant("exp"),
                VerifiedAuthentication.from(root.members("authn")),
                Optional.ofNullable(certificate).map(VerifiedCertificate::from),
                Optional.ofNullable(token).map(VerifiedTokenClaims::from),
                Optional.ofNullable(root.optionalText("jti")),
                Optional.ofNullable(root.optionalText("txn")),
                Optional.ofNullable(root.optionalText("htm")),
                Optional.ofNullable(root.optionalText("htu")),
                Optional.ofNullable(root.optionalText("htq")),
                Optional.ofNullable(root.optionalText("htb")),
                claims);
    }

    /** Shows no claims, because they may contain personal data. */
    @Override
    public String toString() {
        return "Caller(" + sub + ")";
    }
}
