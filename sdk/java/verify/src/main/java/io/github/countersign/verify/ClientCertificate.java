package io.github.countersign.verify;

import java.time.Instant;

/** The caller's leaf certificate. */
public sealed interface ClientCertificate permits VerifiedCertificate {
    /** {@return hash of its DER} */
    String x5tS256();

    /** {@return serial number, lower-case hexadecimal} */
    String serial();

    /** {@return issuer name as text (RFC 4514)} */
    String issuer();

    /** {@return begin of its validity} */
    Instant notBefore();

    /** {@return end of its validity} */
    Instant notAfter();

    /** {@return alternative names} */
    SubjectAlternativeNames sans();

    /** {@return hash of the root certificate of the path} */
    String anchor();

    /** {@return whether it has more alternative names} */
    boolean sansTruncated();
}
