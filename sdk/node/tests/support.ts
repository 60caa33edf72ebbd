/** What the tests share: a clock, raw HTTP, and servers that the tests control. */

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Server as NetServer } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { expect, onTestFinished, type TestContext } from "vitest";

export const NOW = 1_770_000_000;
export const HOST = "orders.example.org";
export const CALLER = "spiffe://example.org/ns/shop/sa/checkout";
export const PACKAGE = new URL("..", `file://${__dirname}/`).pathname.replace(/\/$/, "");

/** A clock that stands still until it is set. */
export class TestClock {
  constructor(public now: number = NOW) {}

  readonly read = (): number => this.now;
}

/** Skips the test, or fails where everything is required. */
export function lacking(context: TestContext, what: string): never {
  if (process.env.COUNTERSIGN_REQUIRE_TOOLS === "1") {
    throw new Error(`required, but missing: ${what}`);
  }
  return context.skip(what);
}

export class Reply {
  constructor(
    readonly status: number,
    readonly headers: ReadonlyMap<string, string>,
    readonly body: Buffer,
  ) {}

  get text(): string {
    return this.body.toString();
  }

  /** The code of problem details, which must be complete. */
  get code(): string {
    expect(this.headers.get("content-type")).toBe("application/problem+json");
    expect(this.headers.get("cache-control")).toBe("no-store");
    expect(this.headers.get("www-authenticate")).toBe(
      this.status === 401 ? "Countersign" : undefined,
    );
    const problem = JSON.parse(this.text);
    expect(problem.status).toBe(this.status);
    expect(Object.keys(problem)).toEqual(["type", "title", "status", "code", "detail"]);
    return problem.code;
  }
}

export interface Sent {
  method?: string;
  hosts?: readonly string[];
  headers?: readonly string[];
  /** Announced by Content-Length. */
  body?: Buffer;
  /** Sent after the body, without being announced. */
  trailer?: string;
  tls?: ConnectionOptions;
}

/** Sends one request, byte by byte as given (latin1), and returns the reply. */
export async function exchange(
  port: number,
  target: string,
  assertions: readonly string[] = [],
  sent: Sent = {},
): Promise<Reply> {
  const { method = "GET", hosts = [HOST], headers = [], body, trailer = "", tls } = sent;
  const lines = [
    `${method} ${target} HTTP/1.1`,
    ...hosts.map((host) => `Host: ${host}`),
    ...assertions.map((assertion) => `Countersign-Assertion: ${assertion}`),
    "Connection: close",
    ...headers,
    ...(body === undefined ? [] : [`Content-Length: ${body.length}`]),
  ];
  const socket = tls
    ? connectTls({ ...tls, port, host: "127.0.0.1" })
    : connect({ port, host: "127.0.0.1" });
  // The server may refuse a body before it has read all of it.
  socket.on("error", () => {});
  socket.write(Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"));
  socket.write(Buffer.concat([body ?? Buffer.alloc(0), Buffer.from(trailer)]));
  const parts: Buffer[] = [];
  socket.on("data", (part: Buffer) => parts.push(part));
  await once(socket, "close");
  return parsed(Buffer.concat(parts), method);
}

function parsed(octets: Buffer, method: string): Reply {
  const end = octets.indexOf("\r\n\r\n");
  if (end < 0) throw new Error(`no response: ${octets.toString("latin1")}`);
  const [statusLine = "", ...lines] = octets.subarray(0, end).toString("latin1").split("\r\n");
  const headers = new Map(
    lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  let body = octets.subarray(end + 4);
  if (headers.get("transfer-encoding") === "chunked" && method !== "HEAD") body = dechunked(body);
  return new Reply(Number(statusLine.split(" ")[1]), headers, body);
}

function dechunked(body: Buffer): Buffer {
  const parts: Buffer[] = [];
  let rest = body;
  for (;;) {
    const end = rest.indexOf("\r\n");
    const size = Number.parseInt(rest.subarray(0, end).toString(), 16);
    if (!(size > 0)) return Buffer.concat(parts);
    parts.push(rest.subarray(end + 2, end + 2 + size));
    rest = rest.subarray(end + 4 + size);
  }
}

/** Starts a server on a free port until the test has finished. Returns the port. */
export async function listen(server: NetServer): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    if ("closeAllConnections" in server) (server as Server).closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A key server whose responses a test decides. */
export class KeyEndpoint {
  readonly requests: IncomingMessage[] = [];
  respond: (response: ServerResponse, request: IncomingMessage) => void = () => {};
  url = "";
  private arrivals: (() => void)[] = [];

  static async start(keySet: object, server: Server = createServer()): Promise<KeyEndpoint> {
    const endpoint = new KeyEndpoint();
    endpoint.serves(keySet);
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      endpoint.requests.push(request);
      endpoint.respond(response, request);
      for (const arrived of endpoint.arrivals.splice(0)) arrived();
    });
    const scheme = "setSecureContext" in server ? "https" : "http";
    endpoint.url = `${scheme}://localhost:${await listen(server)}/keys`;
    return endpoint;
  }

  serves(keySet: object, headers: Record<string, string> = {}, status = 200): void {
    this.respond = (response) => {
      response.writeHead(status, headers);
      response.end(JSON.stringify(keySet));
    };
  }

  fails(): void {
    this.respond = (response) => void response.writeHead(500).end();
  }

  /** Resolves when so many requests have arrived. */
  async arrived(count: number): Promise<void> {
    while (this.requests.length < count) {
      await new Promise<void>((resolve) => this.arrivals.push(resolve));
    }
  }
}
