/** The gateway's public keys (RFC 7517) and the verification of a signature with one of them. */

import { base64urlDecode, sha256 } from "./encoding.js";
import { AssertionRefused } from "./errors.js";
import { type JsonObject, type JsonValue, parseObject, StrictJsonError } from "./json.js";
import type { Algorithm, CompactJws } from "./jws.js";

export const MAX_KEY_SET_BYTES = 1024 * 1024;
const MAX_KEYS = 128;

const PRIVATE_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

type KeyMaterial =
  | { readonly kty: "EC"; readonly crv: "P-256"; readonly x: string; readonly y: string }
  | { readonly kty: "OKP"; readonly crv: "Ed25519"; readonly x: string };

/** The text is not a JWK set. The message never contains the text. */
export class KeySetError extends Error {
  override readonly name = "KeySetError";
}

/** One public key that can verify assertions. */
class Jwk {
  private imported: ReturnType<typeof importKey> | undefined;

  constructor(
    readonly material: KeyMaterial,
    /** The `kid`, or the thumbprint if the key has none. */
    readonly keyId: string,
    /** Equal for keys that are listed twice. */
    readonly identity: string,
  ) {}

  /** Returns whether the key may verify tokens with this `alg`. */
  fits(algorithm: Algorithm): boolean {
    return algorithms(this.material.kty).includes(algorithm);
  }

  /** Returns whether the signature is that of this key. */
  async verify(jws: CompactJws): Promise<boolean> {
    const jose = await joseLibrary();
    this.imported ??= importKey(this.material);
    const [header, payload, signature] = jws.parts;
    try {
      // Only the algorithms of assertions exist here: nothing that a token or a key says can
      // select another one.
      await jose.flattenedVerify({ protected: header, payload, signature }, await this.imported, {
        algorithms: [jws.algorithm],
      });
      return true;
    } catch {
      // Also if the point is not on the curve: no signature verifies with such a key.
      return false;
    }
  }
}

/** The usable keys of a JWK set. */
export class KeySet {
  private readonly byId = new Map<string, Jwk[]>();
  readonly size: number;

  private constructor(keys: readonly Jwk[]) {
    this.size = keys.length;
    for (const key of keys) {
      this.byId.set(key.keyId, [...(this.byId.get(key.keyId) ?? []), key]);
    }
  }

  /**
   * Parses a JWK set: its JSON text, or its members.
   *
   * Keys that cannot verify assertions are ignored (RFC 7517 section 5), and so are private,
   * symmetric and malformed ones. Throws KeySetError if it is no JWK set.
   */
  static parse(value: string | Uint8Array | object): KeySet {
    if (value instanceof Uint8Array) return KeySet.fromText(value);
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return KeySet.fromText(Buffer.from(text));
  }

  private static fromText(text: Uint8Array): KeySet {
    if (text.length > MAX_KEY_SET_BYTES) throw new KeySetError("longer than 1 MiB");
    let items: JsonValue | undefined;
    try {
      items = parseObject(text, "key set").keys;
    } catch (error) {
      throw error instanceof StrictJsonError ? new KeySetError(error.message) : error;
    }
    if (!Array.isArray(items) || !items.every(isObject)) {
      throw new KeySetError("member `keys` is missing or malformed");
    }
    if (items.length > MAX_KEYS) {
      throw new KeySetError(`the key set has more than ${MAX_KEYS} keys`);
    }
    const keys = new Map<string, Jwk>();
    for (const item of items) {
      const key = usableKey(item);
      // A key that is listed twice counts once.
      if (key !== undefined && !keys.has(key.identity)) keys.set(key.identity, key);
    }
    return new KeySet([...keys.values()]);
  }

  /** Returns whether a key has this identifier. */
  has(keyId: string): boolean {
    return this.byId.has(keyId);
  }

  /** Verifies the signature with the key that the header names. Returns the payload. */
  async verify(jws: CompactJws): Promise<Buffer> {
    const named = this.byId.get(jws.keyId);
    if (named === undefined) throw new AssertionRefused("assertion-unknown-key");
    const [key, ...more] = named.filter((key) => key.fits(jws.algorithm));
    if (key === undefined) throw new AssertionRefused("assertion-algorithm");
    if (more.length > 0) throw new AssertionRefused("assertion-unknown-key");
    // RFC 7518 section 3.4 and RFC 8037 section 3.1: both kinds have 64 bytes.
    if (jws.signature.length !== 64 || !(await key.verify(jws))) {
      throw new AssertionRefused("assertion-signature");
    }
    return jws.payload;
  }
}

/** Returns the SHA-256 thumbprint of a key (RFC 7638). */
export function thumbprint(material: KeyMaterial): string {
  const { kty, crv, x } = material;
  return sha256(JSON.stringify(kty === "EC" ? { crv, kty, x, y: material.y } : { crv, kty, x }));
}

// The library is an ES module. `import()` loads it from CommonJS too, in all versions of Node.js.
function joseLibrary() {
  return import("jose");
}

async function importKey(material: KeyMaterial) {
  const jose = await joseLibrary();
  return jose.importJWK({ ...material }, material.kty === "EC" ? "ES256" : "EdDSA");
}

function algorithms(kty: KeyMaterial["kty"]): readonly string[] {
  return kty === "EC" ? ["ES256"] : ["EdDSA", "Ed25519"];
}

/** Returns the key, or undefined if it cannot verify assertions. */
function usableKey(members: JsonObject): Jwk | undefined {
  const material = keyMaterial(members);
  if (material === undefined || PRIVATE_MEMBERS.some((name) => name in members)) return undefined;
  if (!isForVerification(members)) return undefined;
  const { alg, kid = thumbprint(material) } = members;
  if (alg !== undefined && !(isText(alg) && algorithms(material.kty).includes(alg))) {
    return undefined;
  }
  if (!isText(kid)) return undefined;
  const identity = [thumbprint(material), kid, "kid" in members, "alg" in members];
  return new Jwk(material, kid, JSON.stringify(identity));
}

/** Checks `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3). */
function isForVerification(members: JsonObject): boolean {
  const { use = "sig", key_ops: operations = ["verify"] } = members;
  return (
    use === "sig" &&
    Array.isArray(operations) &&
    operations.every(isText) &&
    operations.includes("verify")
  );
}

function keyMaterial(members: JsonObject): KeyMaterial | undefined {
  const { kty, crv, x, y } = members;
  if (!isCoordinate(x)) return undefined;
  if (kty === "EC" && crv === "P-256" && isCoordinate(y)) return { kty, crv, x, y };
  if (kty === "OKP" && crv === "Ed25519") return { kty, crv, x };
  return undefined;
}

/** Each coordinate must have the full length (RFC 7518 section 6.2.1). */
function isCoordinate(value: JsonValue | undefined): value is string {
  return isText(value) && base64urlDecode(value)?.length === 32;
}

function isText(value: JsonValue | undefined): value is string {
  return typeof value === "string";
}

function isObject(value: JsonValue): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
