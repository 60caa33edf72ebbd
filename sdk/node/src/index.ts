/**
 * Verifies Countersign identity assertions: who called, for exactly this request.
 *
 * `AssertionVerifier` applies all rules. `/node`, `/express`, `/fastify` and `/hono` connect it to
 * servers. `/testing` is for the tests of services.
 *
 * @packageDocumentation
 */

export {
  type Authentication,
  Caller,
  type ClientCertificate,
  type Revocation,
  type SubjectAlternativeNames,
  type TokenClaims,
} from "./claims.js";
export {
  AssertionRefused,
  ConfigurationError,
  KeysUnavailable,
  type RefusalCode,
} from "./errors.js";
export type { JsonObject, JsonValue } from "./json.js";
export { MAX_ASSERTION } from "./jws.js";
export type { Clock, Warn } from "./key-source.js";
export { InProcessReplayStore, type ReplayStore } from "./replay.js";
export { HEADER, onlyAssertion, RequestParts } from "./request.js";
export {
  AssertionVerifier,
  type AssertionVerifierOptions,
  DEFAULT_SKEW,
  MAX_LIFETIME,
  MAX_SKEW,
} from "./verifier.js";
