package io.github.countersign.verify;

import java.util.List;

/** The names of a certificate by type, as in the certificate. */
public sealed interface SubjectAlternativeNames permits VerifiedNames {
    /** {@return URIs} */
    List<String> uri();

    /** {@return DNS names} */
    List<String> dns();

    /** {@return mail addresses} */
    List<String> email();

    /** {@return IP addresses} */
    List<String> ip();
}
