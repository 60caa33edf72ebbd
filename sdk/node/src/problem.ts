/** Problem details (RFC 9457) for refused requests. */

import { STATUS_CODES } from "node:http";
import type { AssertionRefused } from "./errors.js";

export interface Problem {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Returns the response to a refused request. */
export function problem(refusal: AssertionRefused): Problem {
  const { status, code, detail } = refusal;
  const body = JSON.stringify({
    type: "about:blank",
    title: STATUS_CODES[status],
    status,
    code,
    detail,
  });
  const headers: Record<string, string> = {
    "content-type": "application/problem+json",
    "content-length": String(Buffer.byteLength(body)),
    "cache-control": "no-store",
  };
  // RFC 9110 section 15.5.2: a 401 must name a scheme. Only the gateway can satisfy this one.
  if (status === 401) headers["www-authenticate"] = "Countersign";
  return { status, headers, body };
}
