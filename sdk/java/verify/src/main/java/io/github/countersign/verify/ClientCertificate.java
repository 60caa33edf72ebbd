package io.github.countersign.verify;

import java.time.Instant;

/**
 * The caller's leaf certificate. Regard what was left out as unknown, not as absent: refuse the request, or look up the
 * certificate by its thumbprint.
 */
public sealed interface ClientCertificate permits VerifiedCertificate {
    /** {@return hash of its DER} */
    String x5tS256();

    /** {@return serial number, lower-case hexadecimal} */
    String serial();

    /** {@return issuer name as text (RFC 4514); empty if it was left out: see {@link #issuerTruncated()}} */
    String issuer();

    /** {@return begin of its validity} */
    Instant notBefore();

    /** {@return end of its validity} */
    Instant notAfter();

    /** {@return alternative names} */
    SubjectAlternativeNames sans();

    /** {@return hash of the root certificate of the path} */
    String anchor();

    /** {@return whether names are missing in {@link #sans()}} */
    boolean sansTruncated();

    /** {@return whether the gateway left out {@link #issuer()}} */
    boolean issuerTruncated();
}
