import { createHash, timingSafeEqual } from "node:crypto";

const BASE64URL = /^[A-Za-z0-9_-]*$/;

/**
 * Decodes canonical base64url without padding: each byte string has exactly one encoding. Returns
 * undefined for everything else, unlike `Buffer.from`, which ignores foreign characters.
 */
export function base64urlDecode(text: string): Buffer | undefined {
  if (!BASE64URL.test(text)) return undefined;
  const octets = Buffer.from(text, "base64url");
  return octets.toString("base64url") === text ? octets : undefined;
}

/** Returns the base64url SHA-256, as in `htq` and `htb`. */
export function sha256(octets: Uint8Array | string): string {
  return createHash("sha256").update(octets).digest("base64url");
}

/** Compares a hash of the assertion with that of the request in constant time. */
export function equal(claim: string, computed: string): boolean {
  const [left, right] = [Buffer.from(claim), Buffer.from(computed)];
  return left.length === right.length && timingSafeEqual(left, right);
}
