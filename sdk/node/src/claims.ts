/** The claims of an assertion, typed, and the caller that they describe. */

import { inspect } from "node:util";
import { equal, sha256 } from "./encoding.js";
import { AssertionRefused } from "./errors.js";
import { isInteger, type JsonObject, type JsonValue } from "./json.js";

export type Revocation = "checked" | "soft" | "off";

/** The names of the certificate by type, as in the certificate. */
export interface SubjectAlternativeNames {
  readonly uri: readonly string[];
  readonly dns: readonly string[];
  readonly email: readonly string[];
  readonly ip: readonly string[];
}

/**
 * The caller's leaf certificate. Times are seconds since 1970.
 *
 * Regard what was left out as unknown, not as absent: refuse the request, or look up the certificate
 * by its thumbprint.
 */
export interface ClientCertificate {
  readonly x5tS256: string;
  readonly serial: string;
  /** Empty if it was left out: see `issuerTruncated`. */
  readonly issuer: string;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly sans: SubjectAlternativeNames;
  /** Whether names are missing in `sans`. */
  readonly sansTruncated: boolean;
  /** Whether the gateway left out `issuer`. */
  readonly issuerTruncated: boolean;
  readonly anchor: string;
}

/** How and when the caller was authenticated. */
export interface Authentication {
  /** Any of `certificate`, `token` and `api-key`. */
  readonly methods: readonly string[];
  readonly at: number;
  readonly resumed: boolean;
  readonly trustDomain: string | undefined;
  readonly revocation: Revocation | undefined;
  readonly crlThisUpdate: number | undefined;
  /**
   * The certificate's thumbprint in compact assertions, undefined in others:
   * `Caller.certificateThumbprint` reads both.
   */
  readonly x5tS256: string | undefined;
}

/** Selected claims of a token that came with the request: on whose behalf the caller acts. */
export interface TokenClaims {
  readonly iss: string;
  readonly sub: string | undefined;
  readonly clientId: string | undefined;
  readonly scope: string | undefined;
  readonly jti: string | undefined;
  readonly ath: string | undefined;
  /** Further claims that the route passes on. */
  readonly other: JsonObject;
}

/**
 * The caller of one request, as the gateway confirmed it.
 *
 * `jti`, `htm` and `htu` are all present or all undefined.
 */
export class Caller {
  readonly iss: string;
  readonly aud: string;
  /**
   * The identity: a SPIFFE ID or other URI verbatim, `dns:NAME`, `mailto:ADDRESS`, `ip:ADDRESS`,
   * `upn:NAME@REALM`; for callers without certificate `api-key:NAME` or
   * `client:ISSUER-NAME/CLIENT_ID`. It is never the subject of a token: that is `token.sub`.
   */
  readonly sub: string;
  readonly iat: number;
  readonly exp: number;
  readonly authn: Authentication;
  /**
   * Undefined for callers without certificate, and for callers with one if the gateway's route has
   * `assertion = "compact"`. Do not conclude from undefined that the caller has no certificate:
   * `hasCertificate` says whether it has.
   */
  readonly certificate: ClientCertificate | undefined;
  readonly token: TokenClaims | undefined;
  readonly jti: string | undefined;
  /** For logs only: it authenticates nothing. */
  readonly txn: string | undefined;
  readonly htm: string | undefined;
  readonly htu: string | undefined;
  readonly htq: string | undefined;
  readonly htb: string | undefined;
  /** All claims, including those that this version does not know. */
  readonly claims: JsonObject;

  /**
   * Checks the types of all known claims. For the verifier only: it verifies nothing.
   *
   * Unknown claims are ignored, because later versions may add some. A `null` is an absent claim.
   */
  constructor(claims: JsonObject) {
    const root = new Members(claims);
    this.iss = root.text("iss");
    this.aud = root.text("aud");
    this.sub = root.text("sub");
    this.iat = root.integer("iat");
    this.exp = root.integer("exp");
    this.authn = authentication(root.members("authn"));
    this.certificate = root.optional("client_cert", (name) => certificate(root.members(name)));
    this.token = root.optional("token", (name) => token(root.members(name)));
    this.jti = root.optionalText("jti");
    this.txn = root.optionalText("txn");
    this.htm = root.optionalText("htm");
    this.htu = root.optionalText("htu");
    this.htq = root.optionalText("htq");
    this.htb = root.optionalText("htb");
    this.claims = claims;
    Object.freeze(this);
  }

  /** The trust domain that verified the certificate. Undefined without a certificate. */
  get trustDomain(): string | undefined {
    return this.authn.trustDomain;
  }

  /**
   * Whether the caller was authenticated with a certificate, according to `authn.methods`. It is also
   * true for compact assertions, in which `certificate` is undefined.
   */
  get hasCertificate(): boolean {
    return this.authn.methods.includes("certificate");
  }

  /**
   * The base64url SHA-256 of the certificate's DER. Undefined without a certificate. Compact
   * assertions have it in `authn`, others in `client_cert`.
   */
  get certificateThumbprint(): string | undefined {
    return this.certificate === undefined ? this.authn.x5tS256 : this.certificate.x5tS256;
  }

  /** Whether the assertion is for one request, and not for any request of the caller. */
  get isRequestBound(): boolean {
    return this.htm !== undefined && this.htu !== undefined && this.jti !== undefined;
  }

  /** Compares a body with `htb`. Undefined if the assertion is not bound to a body. */
  matchesBody(body: Uint8Array): boolean | undefined {
    return this.htb === undefined ? undefined : equal(this.htb, sha256(body));
  }

  /** Shows no claims, because they may contain personal data. */
  [inspect.custom](): string {
    return `Caller(${this.sub})`;
  }
}

/** Typed access to the members of a JSON object. Every failure is `assertion-claims`. */
class Members {
  constructor(readonly raw: JsonObject) {}

  optional<T>(name: string, read: (name: string) => T): T | undefined {
    return this.raw[name] === undefined || this.raw[name] === null ? undefined : read(name);
  }

  text(name: string): string {
    return checked(this.raw[name], isText);
  }

  optionalText(name: string): string | undefined {
    return this.optional(name, (name) => this.text(name));
  }

  integer(name: string): number {
    if (!isInteger(this.raw, name)) throw malformed();
    return this.raw[name] as number;
  }

  boolean(name: string): boolean {
    return checked(this.raw[name], (value) => typeof value === "boolean");
  }

  /** A boolean whose absence means false. `null` is malformed. */
  flag(name: string): boolean {
    return name in this.raw && this.boolean(name);
  }

  texts(name: string): readonly string[] {
    return checked(this.raw[name], areTexts);
  }

  members(name: string): Members {
    return new Members(checked(this.raw[name], isObject));
  }
}

function authentication(members: Members): Authentication {
  const revocation = members.optionalText("revocation");
  if (
    revocation !== undefined &&
    revocation !== "checked" &&
    revocation !== "soft" &&
    revocation !== "off"
  ) {
    throw malformed();
  }
  return Object.freeze({
    methods: members.texts("methods"),
    at: members.integer("at"),
    resumed: members.boolean("resumed"),
    trustDomain: members.optionalText("trust_domain"),
    revocation,
    crlThisUpdate: members.optional("crl_this_update", (name) => members.integer(name)),
    x5tS256: members.optionalText("x5t#S256"),
  });
}

function certificate(members: Members): ClientCertificate {
  const sans = members.members("sans");
  const names = (type: string) => (type in sans.raw ? sans.texts(type) : []);
  return Object.freeze({
    x5tS256: members.text("x5t#S256"),
    serial: members.text("serial"),
    issuer: members.text("issuer"),
    notBefore: members.integer("not_before"),
    notAfter: members.integer("not_after"),
    sans: Object.freeze({
      uri: names("uri"),
      dns: names("dns"),
      email: names("email"),
      ip: names("ip"),
    }),
    sansTruncated: members.flag("sans_truncated"),
    issuerTruncated: members.flag("issuer_truncated"),
    anchor: members.text("anchor"),
  });
}

const TOKEN_MEMBERS = new Set(["iss", "sub", "client_id", "scope", "jti", "ath"]);

function token(members: Members): TokenClaims {
  const other: Record<string, JsonValue> = Object.create(null);
  for (const [name, value] of Object.entries(members.raw)) {
    if (!TOKEN_MEMBERS.has(name)) other[name] = value;
  }
  return Object.freeze({
    iss: members.text("iss"),
    sub: members.optionalText("sub"),
    clientId: members.optionalText("client_id"),
    scope: members.optionalText("scope"),
    jti: members.optionalText("jti"),
    ath: members.optionalText("ath"),
    other: Object.freeze(other),
  });
}

type Value = JsonValue | undefined;

function checked<T extends Value>(value: Value, is: (value: Value) => value is T): T {
  if (!is(value)) throw malformed();
  return value;
}

function isText(value: Value): value is string {
  return typeof value === "string";
}

function areTexts(value: Value): value is readonly string[] {
  return Array.isArray(value) && value.every(isText);
}

function isObject(value: Value): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function malformed(): AssertionRefused {
  return new AssertionRefused("assertion-claims");
}
