/**
 * Hono on Node.js (`@hono/node-server`). Use the middleware before routes are added: Hono runs it
 * for later ones only.
 *
 * Hono itself shows a normalized URL. The received one is in `c.env.incoming`, which only the
 * server for Node.js gives: with others, all requests are refused.
 */

import type { Context, MiddlewareHandler } from "hono";
import type { Caller } from "./claims.js";
import { AssertionRefused } from "./errors.js";
import {
  type AdapterOptions,
  checkedMaxBody,
  type IncomingRequest,
  incomingCaller,
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
