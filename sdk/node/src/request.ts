/**
 * The parts of a received request to which assertions are bound.
 *
 * Nothing is decoded, normalized or lower-cased: the gateway signs bytes, and the service compares
 * bytes. Header fields about other hops (`X-Forwarded-…`, `Forwarded`) are never read. A service
 * behind another proxy configures its authority and prefix on the verifier.
 */

import { inspect } from "node:util";
import { AssertionRefused } from "./errors.js";

export const HEADER = "Countersign-Assertion";

/** Method, authority, path and query of one request, as received. */
export class RequestParts {
  readonly method: string;
  /** Undefined if it is unclear: no host, several, or one that `isPlainHost` does not accept. */
  readonly authority: string | undefined;
  readonly path: Buffer;
  /** The bytes after `?`. Undefined without a `?`, empty if nothing follows it. */
  readonly query: Buffer | undefined;

  /**
   * Throws AssertionRefused (`assertion-request-unclear`) if the target is not a path with an
   * optional query.
   *
   * @param hosts the values of all `Host` fields, or the one `:authority` of HTTP/2
   * @param target the undecoded request target in origin form, `/path?query`. A string is encoded
   *   as UTF-8, so give bytes if the target may have other ones
   */
  constructor(method: string, hosts: string | readonly string[], target: string | Uint8Array) {
    const octets = Buffer.from(target as Uint8Array);
    if (octets[0] !== 0x2f || octets.includes("#")) {
      throw new AssertionRefused("assertion-request-unclear");
    }
    const question = octets.indexOf("?");
    this.method = method;
    this.authority = onlyHost(typeof hosts === "string" ? [hosts] : hosts);
    this.path = question < 0 ? octets : octets.subarray(0, question);
    this.query = question < 0 ? undefined : octets.subarray(question + 1);
  }

  /** Shows no query, because it may contain secrets that do not belong in logs. */
  [inspect.custom](): string {
    return `RequestParts(${this.method} ${this.authority} ${this.path.toString("latin1")})`;
  }
}

function onlyHost(hosts: readonly string[]): string | undefined {
  const [host] = hosts;
  return hosts.length === 1 && host !== undefined && isPlainHost(host) ? host : undefined;
}

/**
 * Returns whether a host has only characters of names, addresses and ports.
 *
 * Frameworks and handlers parse `http://HOST/path`. With `/`, `?`, `#`, `\` or `@` in the host, they
 * would find another path there than the one that was verified. A comma can join several fields.
 */
export function isPlainHost(host: string): boolean {
  return /^[A-Za-z0-9._:[\]-]+$/.test(host);
}

/**
 * Returns the only field value that may contain an assertion.
 *
 * `values` are the values of all `Countersign-Assertion` fields of the request, as received.
 * Several assertions in one value are no compact JWS, and are refused later.
 */
export function onlyAssertion(values: readonly string[]): string {
  const [value] = values;
  if (value === undefined) throw new AssertionRefused("assertion-missing");
  if (values.length > 1) throw new AssertionRefused("assertion-duplicate");
  return value;
}

/** Returns the authority and path of an `htu` claim. The scheme is ignored. */
export function splitUrl(url: string): [authority: string, path: string] | undefined {
  const start = url.indexOf("://");
  const rest = url.slice(start + 3);
  const slash = rest.indexOf("/");
  if (start < 0 || slash < 1 || /[?#]/.test(rest)) return undefined;
  return [rest.slice(0, slash), rest.slice(slash)];
}
