/**
 * Hono on Node.js (`@hono/node-server`). Use the middleware before routes are added: Hono runs it
 * for later ones only.
 *
 * Hono itself shows a normalized URL. The received one is in `c.env.incoming`, which only the
 * server for Node.js gives: with others, all requests are refused. So are requests that Hono handles
 * under another method, path or query than the received one.
 */

import type { Context, MiddlewareHandler } from "hono";
import type { Caller } from "./claims.js";
import { AssertionRefused } from "./errors.js";
import {
  type AdapterOptions,
  checkedMaxBody,
  type IncomingRequest,
  incomingCaller,
  rawTarget,
  verifyIncoming,
} from "./incoming.js";
import { problem } from "./problem.js";
import type { AssertionVerifier } from "./verifier.js";

export type { AdapterOptions };

/**
 * Returns a middleware that lets only requests with a verified assertion pass. Refused requests
 * get problem details.
 */
export function verifyAssertions(
  verifier: AssertionVerifier,
  options: AdapterOptions = {},
): MiddlewareHandler {
  const maxBody = checkedMaxBody(verifier, options);
  return async (context, next) => {
    try {
      const incoming = incomingOf(context);
      checkHandled(context, incoming);
      // The server does not read a stream that was read before, but takes this property for it.
      const onBody = (rawBody: Buffer) => Object.assign(incoming, { rawBody });
      await verifyIncoming(verifier, incoming, maxBody, onBody);
    } catch (error) {
      if (!(error instanceof AssertionRefused)) throw error;
      const { status, headers, body } = problem(error);
      return new Response(body, { status, headers });
    }
    await next();
    return undefined;
  };
}

/**
 * Returns the caller of a request. Throws if there is none: the path is one of `unverifiedPaths`,
 * or the middleware is missing.
 */
export function callerOf(context: Pick<Context, "env">): Caller {
  return incomingCaller(incomingOf(context));
}

function incomingOf(context: Pick<Context, "env">): IncomingRequest {
  const incoming: unknown = context.env?.incoming;
  if (typeof incoming !== "object" || incoming === null || !("rawHeaders" in incoming)) {
    throw new AssertionRefused(
      "assertion-request-unclear",
      "the server does not tell the request's target as it was received",
    );
  }
  return incoming as IncomingRequest;
}

/**
 * Checks that Hono handles the request that is verified. The server builds Hono's URL from the host
 * and the target, and other code may call `app.fetch` with another request and the same `env`.
 */
function checkHandled(context: Context, incoming: IncomingRequest): void {
  const { method, url } = context.req.raw;
  const target = rawTarget(incoming).toString("latin1");
  if (method !== incoming.method || !isHandled(`http://host${target}`, url)) {
    throw new AssertionRefused(
      "assertion-request-unclear",
      "the request is handled under another method or URL than the received one",
    );
  }
}

/** Returns whether the URLs have the same query, and the same path or one without its first part. */
function isHandled(received: string, handled: string): boolean {
  if (!URL.canParse(received) || !URL.canParse(handled)) return false;
  const { pathname, search, hash } = new URL(received);
  const other = new URL(handled);
  if (search !== other.search || hash !== other.hash) return false;
  // Applications that are mounted with `app.mount` see only the rest of the path, partly decoded.
  return other.pathname === "/" || decoded(pathname).endsWith(decoded(other.pathname));
}

function decoded(path: string): string {
  return path.replace(/%[0-9a-f]{2}/gi, (octet) =>
    String.fromCharCode(Number.parseInt(octet.slice(1), 16)),
  );
}
