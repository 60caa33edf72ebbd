/**
 * A gateway for the unit tests of services: makes keys and signs assertions, without a network.
 *
 *     const gw = new TestGateway({ audience: "orders" });
 *     const app = makeApp(gw.verifier());
 *     const response = await app.inject({ url: "/orders/7", headers: gw.headers("GET", "/orders/7") });
 */

import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { sha256 } from "./encoding.js";
import { TYP } from "./jws.js";
import { thumbprint } from "./key-set.js";
import type { Clock } from "./key-source.js";
import { HEADER, RequestParts, splitUrl } from "./request.js";
import { AssertionVerifier, type AssertionVerifierOptions } from "./verifier.js";

export interface TestGatewayOptions {
  /** Of the service under test. */
  readonly audience: string;
  /** Of the assertions. */
  readonly issuer?: string;
  /**
   * Of URLs that are given as a path only. Verifiers take it for the host of all requests,
   * whatever name the test's client used.
   */
  readonly authority?: string;
  readonly algorithm?: "ES256" | "EdDSA";
  /** Returns the seconds since 1970, for the assertions and for the verifiers. */
  readonly clock?: Clock;
}

export interface TestAssertionOptions {
  readonly sub?: string;
  readonly trustDomain?: string;
  /** The claims of an access token of the caller. */
  readonly token?: Readonly<Record<string, unknown>>;
  /** Binds this body. */
  readonly body?: string | Uint8Array;
  readonly binding?: "request" | "caller";
  /** In seconds. 30 by default. */
  readonly lifetime?: number;
  /** Replaces members of the payload. Undefined removes one. */
  readonly claims?: Readonly<Record<string, unknown>>;
  /** Replaces members of the header. Undefined removes one. */
  readonly header?: Readonly<Record<string, unknown>>;
}

/** What `@hono/node-server` gives to an application, as far as it is verified. */
export interface TestBindings {
  readonly incoming: {
    readonly method: string;
    readonly url: string;
    readonly rawHeaders: readonly string[];
  };
}

/** Signs assertions as a gateway does, with a key of its own. */
export class TestGateway {
  readonly audience: string;
  readonly issuer: string;
  readonly authority: string;
  private readonly algorithm: "ES256" | "EdDSA";
  private readonly clock: Clock;
  private key: SigningKey;
  private published: SigningKey[];

  constructor(options: TestGatewayOptions) {
    this.audience = options.audience;
    this.issuer = options.issuer ?? "https://gateway.test";
    this.authority = options.authority ?? "service.test";
    this.algorithm = options.algorithm ?? "ES256";
    this.clock = options.clock ?? (() => Math.floor(Date.now() / 1000));
    this.key = new SigningKey(this.algorithm);
    this.published = [this.key];
  }

  /** The published JWK set. */
  get keySet(): { readonly keys: readonly object[] } {
    return { keys: this.published.map((key) => key.jwk) };
  }

  /** The identifier of the key that signs. */
  get keyId(): string {
    return this.key.keyId;
  }

  /**
   * Returns a verifier that knows this gateway's keys as they are now.
   *
   * Its `authority` is that of this gateway. If a test gives whole URLs to `headers`, set
   * `authority: undefined`: the request's own host is then compared.
   */
  verifier(options: Partial<AssertionVerifierOptions> = {}): AssertionVerifier {
    const hasSource = (["jwksUrl", "jwksFile", "keys"] as const).some(
      (name) => options[name] !== undefined,
    );
    return new AssertionVerifier({
      issuer: this.issuer,
      audience: this.audience,
      authority: this.authority,
      clock: this.clock,
      ...(hasSource ? {} : { keys: this.keySet }),
      ...options,
    });
  }

  /** Returns the header field for one request. */
  headers(method: string, url: string, options: TestAssertionOptions = {}): { [HEADER]: string } {
    return { [HEADER]: this.assertion(method, url, options) };
  }

  /**
   * Returns the third argument of Hono's `app.request(path, init, bindings)`, for the same method and
   * path.
   */
  bindings(method: string, url: string, options: TestAssertionOptions = {}): TestBindings {
    const [authority, target] = this.split(url);
    const assertion = this.assertion(method, url, options);
    return {
      incoming: { method, url: target, rawHeaders: ["Host", authority, HEADER, assertion] },
    };
  }

  /**
   * Returns a signed assertion.
   *
   * @param url as the service receives it, undecoded: `https://host/path?query` or `/path?query`
   */
  assertion(method: string, url: string, options: TestAssertionOptions = {}): string {
    const { binding = "request", token, body } = options;
    const claims = {
      ...this.callerClaims(options),
      ...(token === undefined ? {} : { token }),
      ...(binding === "request" ? this.bindingClaims(method, url) : {}),
      ...(binding === "request" && body !== undefined ? { htb: sha256(body) } : {}),
      ...options.claims,
    };
    return this.key.sign(JSON.stringify(claims), options.header ?? {});
  }

  /** Signs with a new key from now on. Verifiers with a fixed key set do not learn of it. */
  rotate(options: { readonly keepOld?: boolean } = {}): void {
    this.key = new SigningKey(this.algorithm);
    this.published = options.keepOld === false ? [this.key] : [...this.published, this.key];
  }

  /** Serves the key set on a loopback address. */
  async serve(): Promise<{ readonly url: string; close(): Promise<void> }> {
    const server = createServer((_, response) => {
      response.setHeader("content-type", "application/jwk-set+json");
      response.end(JSON.stringify(this.keySet));
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as AddressInfo;
    const close = () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    return { url: `http://127.0.0.1:${port}/.well-known/jwks.json`, close };
  }

  private callerClaims(options: TestAssertionOptions): object {
    const { sub = "spiffe://test.example/caller", trustDomain = "test.example" } = options;
    const now = this.clock();
    const claims = {
      iss: this.issuer,
      aud: this.audience,
      sub,
      iat: now,
      exp: now + (options.lifetime ?? 30),
    };
    if (/^(api-key|client):/.test(sub)) {
      const method = sub.startsWith("api-key:") ? "api-key" : "token";
      return { ...claims, authn: { methods: [method], at: now, resumed: false } };
    }
    return {
      ...claims,
      client_cert: {
        "x5t#S256": sha256(sub),
        serial: "01",
        issuer: "CN=Test",
        not_before: now - 3600,
        not_after: now + 3600,
        sans: alternativeNames(sub),
        anchor: sha256("test"),
      },
      authn: {
        methods: ["certificate"],
        trust_domain: trustDomain,
        revocation: "checked",
        at: now,
        resumed: false,
      },
    };
  }

  private bindingClaims(method: string, url: string): object {
    const [authority, target] = this.split(url);
    // Throws if no verifier could compare it.
    const { query } = new RequestParts(method, authority, target);
    return {
      jti: randomBytes(16).toString("base64url"),
      htm: method,
      htu: `https://${authority}${target.split("?", 1)[0]}`,
      ...(query === undefined ? {} : { htq: sha256(query) }),
    };
  }

  private split(url: string): [authority: string, target: string] {
    if (url.startsWith("/")) return [this.authority, url];
    const [address = "", ...query] = url.split("?");
    // An empty path is sent as a slash.
    const split = splitUrl(address) ?? splitUrl(`${address}/`);
    if (split === undefined) {
      throw new TypeError("the URL must be https://host/path?query or /path?query");
    }
    return [split[0], [split[1], ...query].join("?")];
  }
}

/** A private key that exists in memory only. */
class SigningKey {
  readonly keyId: string;
  readonly jwk: object;
  private readonly privateKey: KeyObject;

  constructor(private readonly algorithm: "ES256" | "EdDSA") {
    const { publicKey, privateKey } =
      algorithm === "ES256"
        ? generateKeyPairSync("ec", { namedCurve: "P-256" })
        : generateKeyPairSync("ed25519");
    this.privateKey = privateKey;
    const material = publicKey.export({ format: "jwk" }) as Parameters<typeof thumbprint>[0];
    this.keyId = thumbprint(material);
    this.jwk = { ...material, kid: this.keyId, alg: algorithm, use: "sig" };
  }

  sign(payload: string, header: object): string {
    const fields = { alg: this.algorithm, typ: TYP, kid: this.keyId, ...header };
    const signingInput = [JSON.stringify(fields), payload]
      .map((part) => Buffer.from(part).toString("base64url"))
      .join(".");
    const signature = sign(
      this.algorithm === "ES256" ? "sha256" : null,
      Buffer.from(signingInput),
      { key: this.privateKey, dsaEncoding: "ieee-p1363" },
    );
    return `${signingInput}.${signature.toString("base64url")}`;
  }
}

function alternativeNames(sub: string): object {
  const names = {
    uri: [] as string[],
    dns: [] as string[],
    email: [] as string[],
    ip: [] as string[],
  };
  const found = /^(dns|mailto|ip):(.*)$/s.exec(sub);
  if (found === null) return { ...names, uri: [sub] };
  const type = found[1] === "mailto" ? "email" : (found[1] as "dns" | "ip");
  return { ...names, [type]: [found[2]] };
}
