/**
 * Verifies an assertion against the request that contains it.
 *
 * The order is: form, type, key, signature, issuer and audience, time, binding, body, replay. The
 * payload is not read before the signature was verified. The service decides what the caller may
 * do.
 */

import { inspect } from "node:util";
import { Caller } from "./claims.js";
import { equal, sha256 } from "./encoding.js";
import { AssertionRefused, ConfigurationError, KeysUnavailable } from "./errors.js";
import { parseJws, strictObject } from "./jws.js";
import { KeySet, KeySetError } from "./key-set.js";
import {
  type Clock,
  FileKeys,
  FixedKeys,
  type KeySource,
  RemoteKeys,
  type Warn,
} from "./key-source.js";
import type { ReplayStore } from "./replay.js";
import { type RequestParts, splitUrl } from "./request.js";

export const MAX_SKEW = 30;
export const DEFAULT_SKEW = 10;
export const MAX_LIFETIME = 300;

export interface AssertionVerifierOptions {
  /** The gateway, compared exactly with `iss`. */
  readonly issuer: string;
  /** This service, compared exactly with `aud`. */
  readonly audience: string;
  /**
   * The URL of the gateway's key set, usually `ISSUER/.well-known/jwks.json`. Exactly one of
   * `jwksUrl`, `jwksFile` and `keys` is needed.
   */
  readonly jwksUrl?: string | undefined;
  /** A file with the key set, which is read again when it changes. */
  readonly jwksFile?: string | undefined;
  /** The key set itself: its JSON text or its members. */
  readonly keys?: string | Uint8Array | object | undefined;
  /**
   * PEM file with the root certificates for `jwksUrl`, for gateways with a private authority. By
   * default those of Node.js.
   */
  readonly caFile?: string | undefined;
  /**
   * What the gateway sends as `Host`. Needed if a proxy between gateway and service changes it.
   * The request's own is then ignored.
   */
  readonly authority?: string | null | undefined;
  /**
   * What such a proxy removes from the path: `/api` if the gateway sends `/api/orders` and this
   * service receives `/orders`.
   */
  readonly pathPrefix?: string | null | undefined;
  /** Allowed difference of the clocks in seconds, at most 30. 10 by default. */
  readonly skew?: number | undefined;
  /** Accepts each request-bound assertion only once. */
  readonly replayStore?: ReplayStore | undefined;
  /**
   * Exact raw paths that GET and HEAD may use without an assertion, for health probes. Handlers
   * then see no caller. For the adapters only.
   */
  readonly unverifiedPaths?: readonly string[] | undefined;
  /**
   * Also accept assertions that are not bound to a request. If such an assertion is stolen, it can
   * be used for any request until it expires.
   */
  readonly allowCallerBinding?: boolean | undefined;
  /**
   * Accept only assertions with `htb`, and compare the body. The adapters then read the whole body
   * before the handler runs.
   */
  readonly requireBodyBinding?: boolean | undefined;
  /** Returns the seconds since 1970, for tests. */
  readonly clock?: Clock | undefined;
  /** Takes messages for operators, about keys and the replay store. By default `process.emitWarning`. */
  readonly warn?: Warn | undefined;
}

const OPTIONS = new Set([
  "issuer",
  "audience",
  "jwksUrl",
  "jwksFile",
  "keys",
  "caFile",
  "authority",
  "pathPrefix",
  "skew",
  "replayStore",
  "unverifiedPaths",
  "allowCallerBinding",
  "requireBodyBinding",
  "clock",
  "warn",
] satisfies (keyof AssertionVerifierOptions)[] as string[]);

/**
 * Verifies assertions of one gateway for one service.
 *
 * Nothing is fetched before the first request, unless `fetchKeys` is called.
 */
export class AssertionVerifier {
  readonly audience: string;
  readonly issuer: string;
  /** Whether the body is needed for verifying. */
  readonly requiresBody: boolean;
  private readonly authority: string | undefined;
  private readonly pathPrefix: Buffer;
  private readonly skew: number;
  private readonly replayStore: ReplayStore | undefined;
  private readonly unverifiedPaths: ReadonlySet<string>;
  private readonly allowCallerBinding: boolean;
  private readonly clock: Clock;
  private readonly warn: Warn;
  private readonly keys: KeySource;

  /** Throws ConfigurationError if an option is missing, unknown or wrong. */
  constructor(options: AssertionVerifierOptions) {
    for (const name of Object.keys(options)) {
      // A misspelled option would be a check that is missing.
      if (!OPTIONS.has(name)) throw new ConfigurationError(`there is no option ${name}`);
    }
    this.clock = options.clock ?? systemClock;
    this.issuer = text("issuer", options.issuer);
    this.audience = text("audience", options.audience);
    this.authority = checkedAuthority(options.authority ?? undefined);
    this.pathPrefix = Buffer.from(checkedPrefix(options.pathPrefix ?? ""));
    this.skew = checkedSkew(options.skew ?? DEFAULT_SKEW);
    this.replayStore = checkedStore(options.replayStore);
    this.unverifiedPaths = checkedPaths(options.unverifiedPaths ?? []);
    this.allowCallerBinding = flag("allowCallerBinding", options.allowCallerBinding);
    this.requiresBody = flag("requireBodyBinding", options.requireBodyBinding);
    this.warn = guarded(options.warn ?? emitWarning);
    this.keys = keySource(options, this.clock, this.warn);
  }

  /**
   * Verifies an assertion for a request. Waits at most 5 seconds for keys.
   *
   * With `body`, `htb` is compared if it is present. Throws AssertionRefused with the first rule
   * that is broken.
   */
  async verify(
    assertion: string,
    request: RequestParts,
    options: { readonly body?: Uint8Array | undefined } = {},
  ): Promise<Caller> {
    const caller = await this.verifyHead(assertion, request);
    this.checkBody(caller, options.body);
    await this.admit(caller);
    return caller;
  }

  /**
   * Fetches the keys now, so that the first request need not wait.
   *
   * Throws KeysUnavailable if that fails. The verifier stays usable and tries again.
   */
  async fetchKeys(): Promise<void> {
    await this.keys.fetchNow();
  }

  /** Ends the background refresh of the keys. */
  close(): void {
    this.keys.close();
  }

  // For adapters, which read a body only after the head was verified. All three steps are needed,
  // in this order.

  /** Checks everything but the body and the replay store. */
  async verifyHead(assertion: string, request: RequestParts): Promise<Caller> {
    const jws = parseJws(assertion);
    const keys = await this.keysFor(jws.keyId);
    const caller = new Caller(strictObject(await keys.verify(jws), "payload"));
    if (caller.iss !== this.issuer) throw new AssertionRefused("assertion-issuer");
    if (caller.aud !== this.audience) throw new AssertionRefused("assertion-audience");
    this.checkTime(caller);
    this.checkBinding(caller);
    if (caller.htm !== undefined && caller.htu !== undefined) {
      this.checkRequest(caller.htm, caller.htu, caller.htq, request);
    }
    return caller;
  }

  /** Compares the body with `htb`, if both are present or if that is required. */
  checkBody(caller: Caller, body: Uint8Array | undefined): void {
    if (caller.htb !== undefined && body !== undefined) {
      if (!equal(caller.htb, sha256(body))) throw new AssertionRefused("assertion-body");
    } else if (this.requiresBody) {
      throw new AssertionRefused("assertion-body-not-bound");
    }
  }

  /** Uses up the assertion. Last, so that a refused assertion is not used up. */
  async admit(caller: Caller): Promise<void> {
    if (this.replayStore === undefined || caller.jti === undefined) return;
    try {
      await this.replayStore.admit(caller.jti, caller.exp + this.skew, this.clock());
    } catch (error) {
      if (error instanceof AssertionRefused) throw error;
      // Accepting would allow every replay.
      this.warn(`the replay store failed: ${error}`);
      throw new AssertionRefused(
        "assertion-replay-cache-full",
        "the store of used assertions cannot be used",
      );
    }
  }

  /** Returns whether a request needs no assertion, by its method and raw target. */
  isUnverified(method: string, target: Uint8Array): boolean {
    if (method !== "GET" && method !== "HEAD") return false;
    const [path] = Buffer.from(target).toString("latin1").split("?", 1);
    return this.unverifiedPaths.has(path as string);
  }

  [inspect.custom](): string {
    return `AssertionVerifier(issuer=${this.issuer} audience=${this.audience})`;
  }

  private async keysFor(keyId: string): Promise<KeySet> {
    try {
      return await this.keys.forKey(keyId);
    } catch (error) {
      throw error instanceof KeysUnavailable ? error.refusal() : error;
    }
  }

  private checkTime(caller: Caller): void {
    const lifetime = caller.exp - caller.iat;
    if (lifetime < 1 || lifetime > MAX_LIFETIME) throw new AssertionRefused("assertion-lifetime");
    const now = this.clock();
    if (caller.iat > now + this.skew) throw new AssertionRefused("assertion-not-yet-valid");
    // RFC 7519 section 4.1.4: "on or after" `exp` is too late. Not written as `>=`, so that a
    // clock that returns no number refuses everything.
    if (!(now < caller.exp + this.skew)) throw new AssertionRefused("assertion-expired");
  }

  private checkBinding(caller: Caller): void {
    if (caller.isRequestBound) return;
    const bound = [caller.htm, caller.htu, caller.jti, caller.htq, caller.htb, caller.txn];
    if (bound.some((claim) => claim !== undefined)) {
      throw new AssertionRefused("assertion-partial-binding");
    }
    if (!this.allowCallerBinding) throw new AssertionRefused("assertion-not-request-bound");
  }

  /**
   * Compares byte by byte, without decoding. The scheme is ignored, because a service cannot know
   * how its caller reached the gateway.
   */
  private checkRequest(
    method: string,
    url: string,
    queryHash: string | undefined,
    request: RequestParts,
  ): void {
    const split = splitUrl(url);
    if (split === undefined) throw new AssertionRefused("assertion-claims");
    const [authority, path] = split;
    if (method !== request.method) throw new AssertionRefused("assertion-method");
    const expected = this.authority ?? request.authority;
    if (expected === undefined) throw new AssertionRefused("assertion-request-unclear");
    if (authority !== expected) throw new AssertionRefused("assertion-authority");
    // Comparing with the prefix in front is the same as removing it from the claim.
    if (!Buffer.from(path).equals(Buffer.concat([this.pathPrefix, request.path]))) {
      throw new AssertionRefused("assertion-path");
    }
    const isSameQuery =
      queryHash === undefined || request.query === undefined
        ? queryHash === undefined && request.query === undefined
        : equal(queryHash, sha256(request.query));
    if (!isSameQuery) throw new AssertionRefused("assertion-query");
  }
}

function keySource(options: AssertionVerifierOptions, clock: Clock, warn: Warn): KeySource {
  const { jwksUrl, jwksFile, keys, caFile } = options;
  if ([jwksUrl, jwksFile, keys].filter((source) => source !== undefined).length !== 1) {
    throw new ConfigurationError("give exactly one of jwksUrl, jwksFile and keys");
  }
  if (jwksUrl !== undefined) return new RemoteKeys(jwksUrl, caFile, clock, warn);
  if (caFile !== undefined) throw new ConfigurationError("caFile is for jwksUrl only");
  if (jwksFile !== undefined) return new FileKeys(jwksFile, clock, warn);
  try {
    return new FixedKeys(KeySet.parse(keys as object));
  } catch (error) {
    if (!(error instanceof KeySetError)) throw error;
    throw new ConfigurationError(`the key set is not usable: ${error.message}`);
  }
}

function systemClock(): number {
  return Math.floor(Date.now() / 1000);
}

function emitWarning(message: string): void {
  process.emitWarning(message, { type: "CountersignWarning" });
}

/** Returns a `warn` that never fails: a message must not decide about a request. */
function guarded(warn: Warn): Warn {
  if (typeof warn !== "function") throw new ConfigurationError("warn must be a function");
  return async (message) => {
    try {
      await warn(message);
    } catch {
      emitWarning(message);
    }
  };
}

function text(name: string, value: unknown): string {
  if (typeof value !== "string" || value === "") {
    throw new ConfigurationError(`no ${name}: it must be a text that is not empty`);
  }
  return value;
}

function flag(name: string, value: unknown): boolean {
  if (value !== undefined && typeof value !== "boolean") {
    throw new ConfigurationError(`${name} must be true or false`);
  }
  return value ?? false;
}

function checkedAuthority(authority: string | undefined): string | undefined {
  if (
    authority !== undefined &&
    (typeof authority !== "string" || !/^[^/?#@ ]+$/.test(authority))
  ) {
    throw new ConfigurationError("the authority must be as in a Host field: `name` or `name:port`");
  }
  return authority;
}

function checkedPrefix(prefix: string): string {
  if (typeof prefix !== "string" || !/^(\/[^?#]*[^/?#])?$/.test(prefix)) {
    throw new ConfigurationError("the path prefix must begin with `/` and not end with it");
  }
  return prefix;
}

function checkedSkew(skew: number): number {
  if (!Number.isInteger(skew) || skew < 0 || skew > MAX_SKEW) {
    throw new ConfigurationError("the skew must be between 0 and 30 seconds");
  }
  return skew;
}

function checkedStore(store: ReplayStore | undefined): ReplayStore | undefined {
  if (store !== undefined && typeof store?.admit !== "function") {
    throw new ConfigurationError("the replay store has no method `admit`");
  }
  return store;
}

function checkedPaths(paths: readonly string[]): ReadonlySet<string> {
  if (!Array.isArray(paths)) {
    throw new ConfigurationError("unverifiedPaths must be a list of paths");
  }
  for (const path of paths) {
    if (typeof path !== "string" || !/^\/[!-~]*$/.test(path) || /[?#*]/.test(path)) {
      throw new ConfigurationError(
        "unverifiedPaths must be exact raw paths, without query and patterns",
      );
    }
  }
  return new Set(paths);
}
