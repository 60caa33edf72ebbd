/**
 * `node:http`, `node:https` and `node:http2`: verifies requests before their handler sees them.
 *
 * The event `upgrade` (WebSocket) does not call handlers: call `verifyRequest` there too.
 */

import type { ServerResponse } from "node:http";
import type { Http2ServerResponse } from "node:http2";
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

export type { AdapterOptions, IncomingRequest };

/** A response of `node:http`, `node:https` or `node:http2`. */
export type OutgoingResponse = ServerResponse | Http2ServerResponse;

/**
 * Returns a handler that lets only requests with a verified assertion reach another handler.
 * Refused requests get problem details.
 */
export function verifyAssertions<
  Request extends IncomingRequest,
  Response extends OutgoingResponse,
>(
  verifier: AssertionVerifier,
  handler: (request: Request, response: Response) => unknown,
  options: AdapterOptions = {},
): (request: Request, response: Response) => Promise<void> {
  const maxBody = checkedMaxBody(verifier, options);
  return async (request, response) => {
    try {
      await verifyIncoming(verifier, request, maxBody);
    } catch (error) {
      if (error instanceof AssertionRefused) refuse(response, error);
      else response.destroy(error instanceof Error ? error : undefined);
      return;
    }
    await handler(request, response);
  };
}

/**
 * Verifies one request, for frameworks without an adapter and for the event `upgrade`. `callerOf`
 * then returns its caller. Throws AssertionRefused.
 */
export async function verifyRequest(
  verifier: AssertionVerifier,
  request: IncomingRequest,
  options: AdapterOptions = {},
): Promise<void> {
  await verifyIncoming(verifier, request, checkedMaxBody(verifier, options));
}

/**
 * Returns the caller of a request. Throws if there is none: the path is one of `unverifiedPaths`,
 * or the verification is missing.
 */
export function callerOf(request: IncomingRequest): Caller {
  return incomingCaller(request);
}

/** Responds with problem details (RFC 9457). */
export function refuse(response: OutgoingResponse, refusal: AssertionRefused): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const { status, headers, body } = problem(refusal);
  (response as ServerResponse).writeHead(status, headers);
  response.end(body);
}
