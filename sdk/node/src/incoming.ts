/** What all adapters share: they verify the request that Node.js itself received. */

import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import { Caller } from "./claims.js";
import { AssertionRefused, ConfigurationError } from "./errors.js";
import { HEADER, isPlainHost, onlyAssertion, RequestParts } from "./request.js";
import type { AssertionVerifier } from "./verifier.js";

/** A request of `node:http`, `node:https` or `node:http2`. */
export type IncomingRequest = IncomingMessage | Http2ServerRequest;

export interface AdapterOptions {
  /**
   * The longest body in bytes, if the verifier requires body binding: bodies are kept in memory
   * while their hash is computed. 1 MiB by default.
   */
  readonly maxBody?: number | undefined;
}

const DEFAULT_MAX_BODY = 1024 * 1024;

// Only this module can write it, unlike a property of the request.
const callers = new WeakMap<object, Caller>();

/** Checks the options once, when the service starts. */
export function checkedMaxBody(verifier: AssertionVerifier, options: AdapterOptions): number {
  if (typeof verifier?.verifyHead !== "function") {
    throw new ConfigurationError("the first argument must be an AssertionVerifier");
  }
  const { maxBody = DEFAULT_MAX_BODY } = options;
  if (!Number.isSafeInteger(maxBody) || maxBody < 0) {
    throw new ConfigurationError("maxBody must be a number of bytes");
  }
  return maxBody;
}

/**
 * Verifies a request and remembers its caller. Does nothing for one of the unverified paths, so
 * that its handler sees no caller.
 *
 * `onBody` gets the verified body, if the verifier requires body binding.
 */
export async function verifyIncoming(
  verifier: AssertionVerifier,
  request: IncomingRequest,
  maxBody: number,
  onBody?: (body: Buffer) => void,
): Promise<void> {
  callers.delete(request);
  const method = request.method ?? "";
  const target = rawTarget(request);
  const received = hosts(request);
  // Also for unverified paths, and if `authority` replaces the host: what runs later may parse it.
  if (!received.every(isPlainHost)) throw new AssertionRefused("assertion-request-unclear");
  if (verifier.isUnverified(method, target)) return;
  const assertion = onlyAssertion(fields(request, HEADER));
  const parts = new RequestParts(method, received, target);
  const caller = await verifier.verifyHead(assertion, parts);
  if (verifier.requiresBody) {
    // Without `htb` the request is refused anyway.
    const body = caller.htb === undefined ? undefined : await bufferedBody(request, maxBody);
    verifier.checkBody(caller, body);
    if (body !== undefined) onBody?.(body);
  }
  await verifier.admit(caller);
  callers.set(request, caller);
}

/** Returns the caller of a verified request, or throws. */
export function incomingCaller(request: object): Caller {
  const caller = callers.get(request);
  if (!(caller instanceof Caller)) {
    // The path is one of `unverifiedPaths`, or the verification is missing.
    throw new Error("the request has no verified caller");
  }
  return caller;
}

/**
 * Returns the request target as received. Node.js reads each byte as one character. Frameworks
 * that rewrite `url`, for mounted parts, keep the received one in `originalUrl`.
 */
export function rawTarget(request: IncomingRequest & { readonly originalUrl?: unknown }): Buffer {
  const target = request.originalUrl ?? request.url;
  if (typeof target !== "string") throw new AssertionRefused("assertion-request-unclear");
  // The target of somebody's own rewriting.
  if (!/^[\0-\xff]*$/.test(target)) throw new AssertionRefused("assertion-request-unclear");
  return Buffer.from(target, "latin1");
}

/** Returns all values of a field, as received: `headers` would join or drop some. */
function fields(request: IncomingRequest, name: string): string[] {
  const { rawHeaders } = request;
  const wanted = name.toLowerCase();
  const values: string[] = [];
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    if (rawHeaders[index]?.toLowerCase() === wanted) values.push(rawHeaders[index + 1] as string);
  }
  return values;
}

function hosts(request: IncomingRequest): string[] {
  const host = fields(request, "host");
  const authority = fields(request, ":authority");
  // HTTP/2 allows both, if they are equal.
  if (authority.length === 1 && host.length === 1 && authority[0] === host[0]) return host;
  return [...authority, ...host];
}

/** Reads the whole body, and gives it back to the request, so that the handler can read it. */
function bufferedBody(request: IncomingRequest, maxBody: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (hasNoBody(request)) {
      resolve(Buffer.alloc(0));
      return;
    }
    if (request.readableDidRead !== false || request.readableEnded || request.destroyed) {
      reject(bodyRefusal("the request's body was read before it was verified"));
      return;
    }
    const parts: Buffer[] = [];
    let length = 0;
    const settle = (finish: () => void) => {
      request.off("readable", onReadable);
      request.off("end", onEnd);
      request.off("error", onClose);
      request.off("close", onClose);
      finish();
    };
    const onReadable = () => {
      for (;;) {
        const part: Buffer | string | null = request.read();
        if (part === null) break;
        if (typeof part === "string") {
          settle(() => reject(bodyRefusal("the request's body was decoded before")));
          return;
        }
        length += part.length;
        if (length > maxBody) {
          settle(() => reject(tooLong()));
          return;
        }
        parts.push(part);
      }
      // The end was received, but is not yet announced. This is the last time when the body can be
      // given back.
      if (length > 0 && wasReceived(request)) {
        const body = Buffer.concat(parts);
        settle(() => {
          request.unshift(body);
          resolve(body);
        });
      }
    };
    const onEnd = () =>
      settle(() => {
        if (length === 0) resolve(Buffer.alloc(0));
        else reject(bodyRefusal("the request's body cannot be read"));
      });
    const onClose = () => settle(() => reject(bodyRefusal("the request's body is incomplete")));
    request.on("end", onEnd);
    request.on("error", onClose);
    request.on("close", onClose);
    request.on("readable", onReadable);
  });
}

function hasNoBody(request: IncomingRequest): boolean {
  if ("stream" in request) return request.stream.endAfterHeaders;
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  return encoding === undefined && (length === undefined || length === "0");
}

function wasReceived(request: IncomingRequest): boolean {
  return "stream" in request ? request.stream.readableEnded : request.complete;
}

function bodyRefusal(detail: string): AssertionRefused {
  return new AssertionRefused("assertion-body", detail);
}

function tooLong(): AssertionRefused {
  return new AssertionRefused(
    "assertion-body-not-bound",
    "the request's body is too long to be verified",
  );
}
