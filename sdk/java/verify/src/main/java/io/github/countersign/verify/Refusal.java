package io.github.countersign.verify;

/**
 * Why an assertion was refused. Codes and statuses are those of the Rust package.
 *
 * <p>401: the assertion proves no caller. 403: it is for something else. 503: the verifier cannot decide.
 */
enum Refusal {
    MISSING("assertion-missing", 401, "the request has no Countersign-Assertion field"),
    DUPLICATE("assertion-duplicate", 401, "the request has more than one Countersign-Assertion field"),
    MALFORMED("assertion-malformed", 401, "the assertion is malformed"),
    TYPE("assertion-type", 401, "the token is not an assertion: its `typ` is missing or another"),
    EMBEDDED_KEY("assertion-embedded-key", 401, "the assertion carries a key or an address of keys in its header"),
    KEY_ID_MISSING("assertion-key-id-missing", 401, "the assertion names no key"),
    ALGORITHM("assertion-algorithm", 401, "the assertion's algorithm is not that of its key"),
    UNKNOWN_KEY("assertion-unknown-key", 401, "the assertion's key is not among the gateway's keys"),
    KEYS_UNAVAILABLE("assertion-keys-unavailable", 503, "the gateway's keys are not available"),
    SIGNATURE("assertion-signature", 401, "the assertion's signature does not verify"),
    CLAIMS("assertion-claims", 401, "a claim of the assertion is missing or malformed"),
    ISSUER("assertion-issuer", 401, "the assertion is from another issuer"),
    AUDIENCE("assertion-audience", 403, "the assertion is for another audience"),
    NOT_YET_VALID("assertion-not-yet-valid", 401, "the assertion was issued in the future; compare the clocks"),
    EXPIRED("assertion-expired", 401, "the assertion has expired"),
    LIFETIME("assertion-lifetime", 401, "the assertion's lifetime is not between 1 and 300 seconds"),
    NOT_REQUEST_BOUND("assertion-not-request-bound", 403, "the assertion is not bound to a request"),
    PARTIAL_BINDING("assertion-partial-binding", 403, "the assertion is bound to a request in part only"),
    REQUEST_UNCLEAR("assertion-request-unclear", 403, "the request's target or host is unclear"),
    METHOD("assertion-method", 403, "the assertion is for another method"),
    AUTHORITY("assertion-authority", 403, "the assertion is for another host"),
    PATH("assertion-path", 403, "the assertion is for another path"),
    QUERY("assertion-query", 403, "the assertion is for another query"),
    BODY("assertion-body", 403, "the assertion is for another body"),
    BODY_NOT_BOUND("assertion-body-not-bound", 403, "the assertion does not bind the request's body"),
    REPLAYED("assertion-replayed", 403, "the assertion was used before"),
    REPLAY_CACHE_FULL("assertion-replay-cache-full", 503, "too many assertions are remembered; try again later");

    final String code;
    final int status;
    final String detail;

    Refusal(String code, int status, String detail) {
        this.code = code;
        this.status = status;
        this.detail = detail;
    }

    static Refusal of(String code) {
        for (Refusal refusal : values()) {
            if (refusal.code.equals(code)) {
                return refusal;
            }
        }
        throw new IllegalArgumentException("no such code: " + code);
    }
}
