/** Makes a GET request with limits on time and size, with verified TLS and without redirects. */

import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import * as http from "node:http";
import * as https from "node:https";
import { BlockList, isIP } from "node:net";
import { ConfigurationError, KeysUnavailable } from "./errors.js";
import { MAX_KEY_SET_BYTES } from "./key-set.js";

/** Limits that tests shorten. */
export const limits = {
  /**
   * Milliseconds for one request, from connecting to the last byte of the body. Requests that wait
   * for keys share a running fetch, so this also limits how long they wait: below 5 seconds.
   */
  fetchTimeout: 4_800,
};

// How many seconds a response is fresh if it does not say so, and the range that it may set.
const DEFAULT_FRESHNESS = 300;
const MIN_FRESHNESS = 60;
const MAX_FRESHNESS = 24 * 60 * 60;

/** A successful response. `body` is undefined if the cached keys are still current. */
export interface KeyResponse {
  readonly body: Buffer | undefined;
  readonly entityTag: string | undefined;
  readonly freshFor: number;
}

/** The one address from which keys are fetched. */
export class KeyServer {
  readonly url: string;
  private readonly parsed: URL;
  private readonly roots: string | undefined;

  constructor(url: string, caFile: string | undefined) {
    this.parsed = checkedUrl(url);
    this.url = url;
    this.roots = caFile === undefined ? undefined : rootCertificates(caFile);
  }

  /** Makes one request. Throws KeysUnavailable if there is no good response in time. */
  get(entityTag: string | undefined): Promise<KeyResponse> {
    return new Promise((resolve, reject) => {
      const headers: Record<string, string> = {
        Accept: "application/jwk-set+json, application/json",
        "Accept-Encoding": "identity",
      };
      if (entityTag !== undefined) headers["If-None-Match"] = entityTag;
      const options = {
        headers,
        // A connection of its own, and no proxy or setting of a shared agent.
        agent: false,
        insecureHTTPParser: false,
      };
      // Verified whatever NODE_TLS_REJECT_UNAUTHORIZED says.
      const tls = { ca: this.roots, rejectUnauthorized: true, minVersion: "TLSv1.2" } as const;
      const request =
        this.parsed.protocol === "https:"
          ? https.request(this.parsed, { ...options, ...tls })
          : http.request(this.parsed, options);
      const settle = (finish: () => void) => {
        clearTimeout(timer);
        finish();
        request.destroy();
      };
      const fail = (problem: string) => settle(() => reject(new KeysUnavailable(problem)));
      // An idle timeout would begin again with each byte.
      const timer = setTimeout(
        () => fail("the key server did not answer in time"),
        limits.fetchTimeout,
      );
      request.on("error", () => fail("the key server cannot be reached"));
      request.on("response", (response) => {
        response.on("error", () => fail("the answer is incomplete"));
        const { statusCode, headers } = response;
        const freshFor = freshness(headers);
        if (statusCode === 304 && entityTag !== undefined) {
          settle(() => resolve({ body: undefined, entityTag, freshFor }));
          return;
        }
        // Redirects are errors too, because keys come only from the configured address.
        if (statusCode !== 200) {
          fail(`the key server answered with status ${statusCode}`);
          return;
        }
        const parts: Buffer[] = [];
        let length = 0;
        response.on("data", (part: Buffer) => {
          length += part.length;
          if (length > MAX_KEY_SET_BYTES) fail("the answer is longer than 1 MiB");
          else parts.push(part);
        });
        response.on("end", () => {
          if (!response.complete) fail("the answer is incomplete");
          const body = Buffer.concat(parts);
          settle(() => resolve({ body, entityTag: plainTag(headers.etag), freshFor }));
        });
      });
      request.end();
    });
  }
}

/** Checks that a URL is `https`, or `http` to a loopback address, without user and fragment. */
function checkedUrl(url: string): URL {
  const isPlain = typeof url === "string" && /^[!-~]+$/.test(url) && !/[#\\]/.test(url);
  const parsed = isPlain ? parsedUrl(url) : undefined;
  const isAllowed =
    parsed !== undefined &&
    parsed.username === "" &&
    parsed.password === "" &&
    !/^[a-z]+:\/*[^/?]*@/i.test(url) &&
    (parsed.protocol === "https:" || (parsed.protocol === "http:" && isLoopback(parsed.hostname)));
  if (!isAllowed) {
    throw new ConfigurationError(
      "keys are fetched over https, or over http from a loopback address only",
    );
  }
  return parsed;
}

function parsedUrl(url: string): URL | undefined {
  try {
    return new URL(url);
  } catch {
    return undefined;
  }
}

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

function isLoopback(host: string): boolean {
  if (host === "localhost") return true;
  const address = host.replace(/^\[(.*)\]$/, "$1");
  const version = isIP(address);
  return version !== 0 && loopback.check(address, version === 4 ? "ipv4" : "ipv6");
}

function rootCertificates(file: string): string {
  let text: string;
  try {
    // Some editors write a byte order mark at the start of a file.
    text = readFileSync(file, "utf8").replace(/^\ufeff/, "");
  } catch (error) {
    throw new ConfigurationError(`caFile cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
  // OpenSSL ignores a block that does not begin at the start of its line, and blocks of other
  // kinds. A missing root would only be noticed as a failed fetch.
  const begun = text.split("-BEGIN ").length - 1;
  const blocks =
    text.match(/^-----BEGIN CERTIFICATE-----\r?\n[^-]*^-----END CERTIFICATE-----\r?$/gm) ?? [];
  if (begun === 0 || blocks.length !== begun) {
    throw new ConfigurationError(
      `caFile: of ${begun} PEM blocks ${blocks.length} can be read as certificates; ` +
        "each has to begin its line with -----BEGIN CERTIFICATE-----",
    );
  }
  try {
    for (const block of blocks) new X509Certificate(block);
  } catch {
    throw new ConfigurationError("caFile has a certificate that cannot be read");
  }
  return text;
}

/** Returns the freshness of a response for a private cache (RFC 9111 section 4.2.1). */
export function freshness(headers: http.IncomingHttpHeaders): number {
  let maxAge: number | undefined;
  // Node.js joins several fields with a comma.
  for (const part of (headers["cache-control"] ?? "").split(",")) {
    const directive = part.trim().toLowerCase();
    if (directive === "no-store" || directive.startsWith("no-cache")) return MIN_FRESHNESS;
    if (directive.startsWith("max-age=")) {
      maxAge = seconds(directive.slice("max-age=".length).replaceAll('"', ""));
    }
  }
  const freshFor = (maxAge ?? DEFAULT_FRESHNESS) - (seconds(headers.age ?? "") ?? 0);
  return Math.max(MIN_FRESHNESS, Math.min(freshFor, MAX_FRESHNESS));
}

function seconds(text: string): number | undefined {
  return /^[0-9]{1,15}$/.test(text) ? Number(text) : undefined;
}

function plainTag(tag: string | undefined): string | undefined {
  // It is sent back, so it must be a plain field value.
  return tag !== undefined && /^[ -~]+$/.test(tag) ? tag : undefined;
}
