/**
 * Compact JWS (RFC 7515 section 7.1): strict parsing, before the JOSE library sees the token.
 *
 * Parsing checks the form only. No part of a token may be trusted before its signature was
 * verified.
 */

import { base64urlDecode } from "./encoding.js";
import { AssertionRefused } from "./errors.js";
import { type JsonObject, parseObject, StrictJsonError } from "./json.js";

/** The length of the longest assertion that is accepted, in bytes. Equal in all packages. */
export const MAX_ASSERTION = 8192;

export const TYP = "countersign+jwt";

/** `Ed25519` is the name of RFC 9864 for the same algorithm, always with an Ed25519 key. */
export type Algorithm = "ES256" | "EdDSA" | "Ed25519";

// Header members that contain a key or the address of one. Keys come only from the configured
// source (RFC 8725 section 3.10).
const EMBEDDED_KEYS = ["jwk", "jku", "x5u", "x5c"];

const NOT_COMPACT = "not a compact JWS: three base64url parts separated by dots are expected";

/** A token whose form is that of an assertion. Not verified. */
export interface CompactJws {
  readonly algorithm: Algorithm;
  readonly keyId: string;
  /** The three parts in base64url. */
  readonly parts: readonly [header: string, payload: string, signature: string];
  readonly payload: Buffer;
  readonly signature: Buffer;
}

/** Checks all rules about the form, the header and the key reference. */
export function parseJws(token: string): CompactJws {
  // Characters are bytes only in ASCII, and all parts are base64url.
  if (typeof token !== "string" || !/^[ -~]*$/.test(token)) throw malformed(NOT_COMPACT);
  if (token.length > MAX_ASSERTION) throw malformed(`longer than ${MAX_ASSERTION} bytes`);
  const [header, payload, signature, ...more] = token.split(".");
  if (!header || payload === undefined || !signature || more.length > 0) {
    throw malformed(NOT_COMPACT);
  }
  const members = headerMembers(decode(header, "header"));
  const decoded = [decode(payload, "payload"), decode(signature, "signature")] as const;
  if (members.typ !== TYP) throw new AssertionRefused("assertion-type");
  if (EMBEDDED_KEYS.some((name) => name in members)) {
    throw new AssertionRefused("assertion-embedded-key");
  }
  if (!members.kid) throw new AssertionRefused("assertion-key-id-missing");
  return {
    algorithm: members.alg as Algorithm,
    keyId: members.kid as string,
    parts: [header, payload, signature],
    payload: decoded[0],
    signature: decoded[1],
  };
}

function decode(text: string, part: string): Buffer {
  const octets = base64urlDecode(text);
  if (octets === undefined) {
    throw malformed(`${part} is not canonical base64url without padding`);
  }
  return octets;
}

function headerMembers(text: Buffer): JsonObject {
  const members = strictObject(text, "header");
  // RFC 7515 section 4.1.11: a token with an unsupported extension must be refused. None is
  // supported. `b64` (RFC 7797) changes what is signed, even without `crit`.
  if ("crit" in members || "b64" in members) {
    throw malformed("the token demands an extension by `crit` or `b64`; none is supported");
  }
  if (typeof members.alg !== "string") throw malformed("member `alg` is missing or malformed");
  if (!["ES256", "EdDSA", "Ed25519"].includes(members.alg)) {
    throw new AssertionRefused("assertion-algorithm");
  }
  for (const name of ["kid", "typ"]) {
    if (name in members && typeof members[name] !== "string") {
      throw malformed(`member \`${name}\` is missing or malformed`);
    }
  }
  return members;
}

/** Parses a JSON object that is a part of a token. */
export function strictObject(text: Uint8Array, part: string): JsonObject {
  try {
    return parseObject(text, part);
  } catch (error) {
    if (error instanceof StrictJsonError) throw malformed(error.message);
    throw error;
  }
}

function malformed(problem: string): AssertionRefused {
  return new AssertionRefused("assertion-malformed", `the assertion is malformed: ${problem}`);
}
