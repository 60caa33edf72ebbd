/**
 * Why an assertion was refused.
 *
 * The codes and statuses are those of the Rust package. Messages are safe to show to a caller:
 * they never contain the token or parts of it.
 */

// code: [HTTP status, message]. 401: the assertion proves no caller. 403: it is for something
// else. 503: the verifier cannot decide.
const REFUSALS = {
  "assertion-missing": [401, "the request has no Countersign-Assertion field"],
  "assertion-duplicate": [401, "the request has more than one Countersign-Assertion field"],
  "assertion-malformed": [401, "the assertion is malformed"],
  "assertion-type": [401, "the token is not an assertion: its `typ` is missing or another"],
  "assertion-embedded-key": [
    401,
    "the assertion carries a key or an address of keys in its header",
  ],
  "assertion-key-id-missing": [401, "the assertion names no key"],
  "assertion-algorithm": [401, "the assertion's algorithm is not that of its key"],
  "assertion-unknown-key": [401, "the assertion's key is not among the gateway's keys"],
  "assertion-keys-unavailable": [503, "the gateway's keys are not available"],
  "assertion-signature": [401, "the assertion's signature does not verify"],
  "assertion-claims": [401, "a claim of the assertion is missing or malformed"],
  "assertion-issuer": [401, "the assertion is from another issuer"],
  "assertion-audience": [403, "the assertion is for another audience"],
  "assertion-not-yet-valid": [401, "the assertion was issued in the future; compare the clocks"],
  "assertion-expired": [401, "the assertion has expired"],
  "assertion-lifetime": [401, "the assertion's lifetime is not between 1 and 300 seconds"],
  "assertion-not-request-bound": [403, "the assertion is not bound to a request"],
  "assertion-partial-binding": [403, "the assertion is bound to a request in part only"],
  "assertion-request-unclear": [403, "the request's target or host is unclear"],
  "assertion-method": [403, "the assertion is for another method"],
  "assertion-authority": [403, "the assertion is for another host"],
  "assertion-path": [403, "the assertion is for another path"],
  "assertion-query": [403, "the assertion is for another query"],
  "assertion-body": [403, "the assertion is for another body"],
  "assertion-body-not-bound": [403, "the assertion does not bind the request's body"],
  "assertion-replayed": [403, "the assertion was used before"],
  "assertion-replay-cache-full": [503, "too many assertions are remembered; try again later"],
} as const satisfies Record<string, readonly [number, string]>;

export type RefusalCode = keyof typeof REFUSALS;

/** An assertion was refused, or could not be verified. */
export class AssertionRefused extends Error {
  override readonly name = "AssertionRefused";
  /** Stable, meant for programs. */
  readonly code: RefusalCode;
  /** The HTTP status of a response. */
  readonly status: 401 | 403 | 503;
  /** For people, safe to show to a caller. It may change. */
  readonly detail: string;

  constructor(code: RefusalCode, detail?: string) {
    const [status, message] = REFUSALS[code];
    super(`${code}: ${detail ?? message}`);
    this.code = code;
    this.status = status;
    this.detail = detail ?? message;
  }
}

/** A verifier or an adapter cannot be made: an option is missing or would weaken it. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
}

/** The gateway's keys could not be fetched. The message is safe to show to a caller. */
export class KeysUnavailable extends Error {
  override readonly name = "KeysUnavailable";

  /** Returns the refusal of a request whose assertion needs these keys. */
  refusal(): AssertionRefused {
    return new AssertionRefused(
      "assertion-keys-unavailable",
      `the gateway's keys are not available: ${this.message}`,
    );
  }
}
