package io.github.countersign.verify;

import java.time.Instant;
import java.util.Map;
import java.util.Optional;

/**
 * The caller of one request, as the gateway confirmed it.
 *
 * <p>{@code jti}, {@code htm} and {@code htu} are all present or all empty.
 *
 * <p>Only a verifier makes callers. This is a sealed interface without public implementation, so that no data binder of a
 * framework can make one of a request's parameters. The same is true for the types of its members.
 */
public sealed interface Caller permits VerifiedCaller {
    /** {@return the gateway} */
    String iss();

    /** {@return this service} */
    String aud();

    /**
     * Returns the identity: a SPIFFE ID or other URI verbatim, {@code dns:NAME}, {@code mailto:ADDRESS},
     * {@code ip:ADDRESS}, {@code upn:NAME@REALM}; for callers without certificate {@code api-key:NAME} or
     * {@code client:ISSUER-NAME/CLIENT_ID}.
     *
     * @return the identity; never the subject of a token: that is {@code token.sub}
     */
    String sub();

    /** {@return when the assertion was signed} */
    Instant iat();

    /** {@return from when on it is not valid} */
    Instant exp();

    /** {@return how the caller was authenticated} */
    Authentication authn();

    /**
     * Returns the caller's certificate. It is also absent for callers with a certificate if the gateway's route has
     * {@code assertion = "compact"}: {@link #hasCertificate()} says whether the caller has one.
     *
     * @return the certificate; empty for callers without certificate, and for compact assertions
     */
    Optional<ClientCertificate> certificate();

    /** {@return claims of a token that came with the request} */
    Optional<TokenClaims> token();

    /** {@return identifier of the assertion} */
    Optional<String> jti();

    /** {@return identifier of a chain of requests, for logs only: it authenticates nothing} */
    Optional<String> txn();

    /** {@return the method} */
    Optional<String> htm();

    /** {@return the URL, without query} */
    Optional<String> htu();

    /** {@return the hash of the query} */
    Optional<String> htq();

    /** {@return the hash of the body} */
    Optional<String> htb();

    /** {@return all claims, including those that this version does not know} */
    Map<String, Object> claims();

    /** {@return the trust domain that verified the certificate; empty without a certificate} */
    default Optional<String> trustDomain() {
        return authn().trustDomain();
    }

    /**
     * Returns whether the caller was authenticated with a certificate, according to {@code authn.methods}. It is also true
     * for compact assertions, in which {@link #certificate()} is empty.
     *
     * @return whether the caller has a certificate
     */
    default boolean hasCertificate() {
        return authn().methods().contains("certificate");
    }

    /**
     * Returns the thumbprint of the caller's certificate. Compact assertions have it in {@code authn}, others in
     * {@code client_cert}.
     *
     * @return base64url SHA-256 of the certificate's DER; empty for callers without certificate
     */
    default Optional<String> certificateThumbprint() {
        return certificate().map(ClientCertificate::x5tS256).or(authn()::x5tS256);
    }

    /** {@return whether the assertion is for one request, and not for any request of the caller} */
    default boolean isRequestBound() {
        return htm().isPresent() && htu().isPresent() && jti().isPresent();
    }

    /**
     * Compares a body with {@code htb}.
     *
     * @param body the whole body
     * @return empty if the assertion is not bound to a body
     */
    default Optional<Boolean> matchesBody(byte[] body) {
        return htb().map(hash -> Octets.equal(hash, Octets.hash(body)));
    }
}
