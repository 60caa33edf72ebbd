/**
 * Express 5. Use the middleware before all others: what runs outside of it runs before the caller
 * is known. It compares `originalUrl`, so it also works inside of mounted routers.
 */

import type { Request, RequestHandler } from "express";
import type { Caller } from "./claims.js";
import { AssertionRefused } from "./errors.js";
import { type AdapterOptions, checkedMaxBody, incomingCaller, verifyIncoming } from "./incoming.js";
import { refuse } from "./node.js";
import type { AssertionVerifier } from "./verifier.js";

export type { AdapterOptions };

/**
 * Returns a middleware that lets only requests with a verified assertion pass. Refused requests
 * get problem details.
 */
export function verifyAssertions(
  verifier: AssertionVerifier,
  options: AdapterOptions = {},
): RequestHandler {
  const maxBody = checkedMaxBody(verifier, options);
  return async (request, response, next) => {
    try {
      await verifyIncoming(verifier, request, maxBody);
    } catch (error) {
      if (error instanceof AssertionRefused) refuse(response, error);
      else next(error);
      return;
    }
    next();
  };
}

/**
 * Returns the caller of a request. Throws if there is none: the path is one of `unverifiedPaths`,
 * or the middleware is missing.
 */
export function callerOf(request: Pick<Request, "originalUrl">): Caller {
  return incomingCaller(request);
}
