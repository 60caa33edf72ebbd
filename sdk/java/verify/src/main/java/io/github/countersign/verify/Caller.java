package io.github.countersign.verify;

import java.time.Instant;
import java.util.Map;
import java.util.Optional;

/**
 * The caller of one request, as the gateway confirmed it.
 *
 * <p>{@code jti}, {@code htm} and {@code htu} are all present or all empty.
 *
 * @param iss the gateway
 * @param aud this service
 * @param sub the identity: a SPIFFE ID or other URI verbatim, {@code dns:NAME}, {@code mailto:ADDRESS}, {@code ip:ADDRESS};
 *     for callers without certificate {@code api-key:NAME} or {@code client:ISSUER-NAME/CLIENT_ID}. Never the subject of a
 *     token: that is {@code token.sub}.
 * @param iat when the assertion was signed
 * @param exp from then on it is not valid
 * @param authn how the caller was authenticated
 * @param certificate the caller's certificate, if it has one
 * @param token claims of a token that came with the request
 * @param jti identifier of the assertion
 * @param txn identifier of a chain of requests, for logs only: it authenticates nothing
 * @param htm the method
 * @param htu the URL, without query
 * @param htq the hash of the query
 * @param htb the hash of the body
 * @param claims all claims, including those that this version does not know
 */
public record Caller(
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
        Map<String, Object> claims) {
    /** Checks the types of all known claims. Unknown ones are ignored, because later versions may add some. */
    static Caller from(Map<String, Object> claims) {
        Members root = new Members(claims);
        Members certificate = root.optionalMembers("client_cert");
        Members token = root.optionalMembers("token");
        return new Caller(
                root.text("iss"),
                root.text("aud"),
                root.text("sub"),
                instant(root.integer("iat")),
                instant(root.integer("exp")),
                Authentication.from(root.members("authn")),
                Optional.ofNullable(certificate).map(ClientCertificate::from),
                Optional.ofNullable(token).map(TokenClaims::from),
                Optional.ofNullable(root.optionalText("jti")),
                Optional.ofNullable(root.optionalText("txn")),
                Optional.ofNullable(root.optionalText("htm")),
                Optional.ofNullable(root.optionalText("htu")),
                Optional.ofNullable(root.optionalText("htq")),
                Optional.ofNullable(root.optionalText("htb")),
                claims);
    }

    /** Times beyond those of {@link Instant} become the last one. */
    static Instant instant(long seconds) {
        return seconds > Instant.MAX.getEpochSecond() ? Instant.MAX : Instant.ofEpochSecond(seconds);
    }

    /** {@return the trust domain that verified the certificate; empty without a certificate} */
    public Optional<String> trustDomain() {
        return authn.trustDomain();
    }

    /** {@return whether the assertion is for one request, and not for any request of the caller} */
    public boolean isRequestBound() {
        return htm.isPresent() && htu.isPresent() && jti.isPresent();
    }

    /**
     * Compares a body with {@code htb}.
     *
     * @param body the whole body
     * @return empty if the assertion is not bound to a body
     */
    public Optional<Boolean> matchesBody(byte[] body) {
        return htb.map(hash -> Octets.equal(hash, Octets.hash(body)));
    }

    /** Shows no claims, because they may contain personal data. */
    @Override
    public String toString() {
        return "Caller(" + sub + ")";
    }
}
