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
 * Call it on the outermost application, before routes and plugins are added. Throws
 * ConfigurationError inside of a plugin with a context of its own, and if there are routes or such
 * plugins already: some routes would not be verified.
 */
export function verifyAssertions(
  app: AnyInstance,
  verifier: AssertionVerifier,
  options: AdapterOptions = {},
): void {
  const maxBody = checkedMaxBody(verifier, options);
  // Each context inherits from the one around it, which does not get its hooks.
  if ("addHook" in Object.getPrototypeOf(app)) {
    throw new ConfigurationError(
      "call verifyAssertions on the outermost application: inside of a plugin, it would verify the " +
        "routes of that plugin only",
    );
  }
  // Contexts that exist already do not get hooks that are added later, not even for routes and
  // handlers of unknown paths that are added to them later.
  if (contextsOf(app).length > 0 || !/^\(empty tree\)\s*$/.test(app.printRoutes())) {
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

/** Returns the contexts of the plugins that are loaded already. */
function contextsOf(app: AnyInstance): readonly unknown[] {
  // Fastify has no public name for them.
  const name = Object.getOwnPropertySymbols(app).find(
    (symbol) => symbol.description === "fastify.children",
  );
  const contexts: unknown = name && (app as unknown as Record<symbol, unknown>)[name];
  if (!Array.isArray(contexts)) {
    throw new ConfigurationError("this version of Fastify does not tell which plugins are loaded");
  }
  return contexts;
}

/**
 * Returns the caller of a request. Throws if there is none: the path is one of `unverifiedPaths`,
 * or `verifyAssertions` was not called.
 */
export function callerOf(request: { readonly raw: object }): Caller {
  return incomingCaller(request.raw);
}
