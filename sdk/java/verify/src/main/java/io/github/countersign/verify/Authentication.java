package io.github.countersign.verify;

import java.time.Instant;
import java.util.List;
import java.util.Optional;

/** How and when the caller was authenticated. */
public sealed interface Authentication permits VerifiedAuthentication {
    /** {@return any of {@code certificate}, {@code token}, {@code api-key}} */
    List<String> methods();

    /** {@return when the caller last proved that it holds the certificate's key} */
    Instant at();

    /** {@return whether the TLS session was resumed} */
    boolean resumed();

    /** {@return the trust domain that verified the certificate; empty without a certificate} */
    Optional<String> trustDomain();

    /** {@return {@code checked}, {@code soft} or {@code off}; empty without a certificate} */
    Optional<String> revocation();

    /** {@return {@code thisUpdate} of the revocation list, if one was checked} */
    Optional<Instant> crlThisUpdate();

    /**
     * Returns the certificate's thumbprint in compact assertions. {@link Caller#certificateThumbprint()} reads it from all
     * assertions.
     *
     * @return base64url SHA-256 of the certificate's DER; empty if the assertion is not compact
     */
    Optional<String> x5tS256();
}
