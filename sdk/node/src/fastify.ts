/** Fastify 5: a hook for all routes of an application, and for paths without a route. */

import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Caller } from "./claims.js";
import { AssertionRefused, ConfigurationError } from "./errors.js";
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

// biome-ignore lint/suspicious/noExplicitAny: for HTTP/1 and HTTP/2, and all loggers and schemas
type AnyInstance = FastifyInstance<any, any, any, any, any>;

/**
 * Lets only requests with a verified assertion reach the routes of an application. Refused
 * requests get problem details.
 *
 * Call it on the outermost application, before routes and plugins are added. Throws ConfigurationError if there are routes
 * already: some of them would not be verified.
 */
export function verifyAssertions(
  app: AnyInstance,
  verifier: AssertionVerifier,
  options: AdapterOptions = {},
): void {
  const maxBody = checkedMaxBody(verifier, options);
  // Plugins that are loaded already do not get hooks that are added later.
  if (!/^\(empty tree\)\s*$/.test(app.printRoutes())) {
    throw new ConfigurationError("call verifyAssertions before routes and plugins are added");
  }
  app.addHook("onRequest", async (request: FastifyRequest, reply: FastifyReply) => {
    try {
      await verifyIncoming(verifier, request.raw as IncomingRequest, maxBody);
    } catch (error) {
      if (!(error instanceof AssertionRefused)) throw error;
      const { status, headers, body } = problem(error);
      // Fastify would add a character set to the type of a text.
      return reply.code(status).headers(headers).send(Buffer.from(body));
    }
    return undefined;
  });
}

/**
 * Returns the caller of a request. Throws if there is none: the path is one of `unverifiedPaths`,
 * or `verifyAssertions` was not called.
 */
export function callerOf(request: { readonly raw: object }): Caller {
  return incomingCaller(request.raw);
}
