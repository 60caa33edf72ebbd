package io.github.countersign.verify;

import java.util.Map;
import java.util.Optional;

/** Selected claims of a token that came with the request: on whose behalf the caller acts. */
public sealed interface TokenClaims permits VerifiedTokenClaims {
    /** {@return who issued the token} */
    String iss();

    /** {@return its subject, which is not the caller} */
    Optional<String> sub();

    /** {@return the OAuth client} */
    Optional<String> clientId();

    /** {@return what the token allows} */
    Optional<String> scope();

    /** {@return its identifier} */
    Optional<String> jti();

    /** {@return its hash} */
    Optional<String> ath();

    /** {@return further claims that the route passes on} */
    Map<String, Object> other();
}
