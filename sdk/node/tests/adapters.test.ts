/** Each adapter through a real server of its framework. */

import { once } from "node:events";
import { createServer as createHttp1 } from "node:http";
import { connect, createServer, type IncomingHttpHeaders } from "node:http2";
import { connect as connectTcp } from "node:net";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { expect, onTestFinished, test } from "vitest";
import * as expressAdapter from "../src/express.js";
import * as fastifyAdapter from "../src/fastify.js";
import * as honoAdapter from "../src/hono.js";
import { AssertionRefused, type AssertionVerifier, ConfigurationError } from "../src/index.js";
import * as nodeAdapter from "../src/node.js";
import { TestGateway } from "../src/testing.js";
import { applications, honoApp, honoServer, nodeApp } from "./applications.js";
import { checkAll, checkBodies, REFUSED_BY_SOME, signed, TARGETS } from "./http-cases.js";
import { CALLER, exchange, HOST, listen } from "./support.js";

const gw = new TestGateway({ audience: "orders" });
// The request's own host is compared.
const options = { authority: undefined, unverifiedPaths: ["/healthz"] };

for (const [name, make] of Object.entries(applications)) {
  test(`${name}: targets, hosts and refusals`, async () => {
    await checkAll(await listen(await make(gw.verifier(options))), gw);
  });

  test(`${name}: bodies`, async () => {
    const verifier = gw.verifier({ ...options, requireBodyBinding: true });
    await checkBodies(await listen(await make(verifier)), gw);
  });
}

const http2Applications: Record<string, (verifier: AssertionVerifier) => Promise<number>> = {
  "node:http2": async (verifier) => listen(createServer(nodeApp(verifier))),
  "Fastify over HTTP/2": async (verifier) => {
    const app = Fastify({ http2: true });
    fastifyAdapter.verifyAssertions(app, verifier);
    app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, done) =>
      done(null, body),
    );
    app.get("/healthz", (request) => callerOrNone(() => fastifyAdapter.callerOf(request)));
    app.post("/echo", (request, reply) => reply.send(request.body ?? ""));
    app.setNotFoundHandler((request, reply) => {
      reply.code(200).send(fastifyAdapter.callerOf(request).sub);
    });
    await app.ready();
    return listen(app.server);
  },
  "Hono over HTTP/2": async (verifier) => {
    const { createAdaptorServer } = await import("@hono/node-server");
    return listen(createAdaptorServer({ ...honoApp(verifier), createServer } as never) as never);
  },
};

for (const [name, start] of Object.entries(http2Applications)) {
  test(`${name}: targets, hosts and bodies`, async () => {
    const port = await start(gw.verifier(options));
    const get = (path: string, assertion?: string, more: IncomingHttpHeaders = {}) =>
      http2Exchange(port, {
        ":authority": HOST,
        ":path": path,
        ...(assertion === undefined ? {} : { "countersign-assertion": assertion }),
        ...more,
      });
    for (const target of TARGETS.filter((target) => !REFUSED_BY_SOME.includes(target))) {
      expect([target, await get(target, signed(gw, "GET", target))]).toEqual([target, CALLER]);
    }
    const token = signed(gw, "GET", "/orders/7");
    expect(await get("/healthz")).toBe("none");
    expect(await get("/orders/7")).toBe("401 assertion-missing");
    expect(await get("/orders/%37", token)).toBe("403 assertion-path");
    expect(await get("/orders/7?", token)).toBe("403 assertion-query");
    expect(await get("/orders/7", token, { host: HOST })).toBe(CALLER);
    expect(await get("/orders/7", token, { host: "evil.example" })).toBe(
      "403 assertion-request-unclear",
    );
    expect(await get("/orders/7", token, { ":authority": "evil.example" })).toBe(
      "403 assertion-authority",
    );
    expect(await get("/orders/7", token, { ":method": "PUT" })).toBe("403 assertion-method");

    const strict = await start(gw.verifier({ ...options, requireBodyBinding: true }));
    const body = Buffer.alloc(100_000, "x");
    for (const [sent, result] of [
      [body, body.toString()],
      [Buffer.alloc(100_000, "y"), "403 assertion-body"],
      [Buffer.alloc(0), "403 assertion-body"],
    ] as const) {
      const headers = {
        ":authority": HOST,
        ":path": "/echo",
        ":method": "POST",
        "content-type": "application/octet-stream",
        "countersign-assertion": gw.assertion("POST", `https://${HOST}/echo`, { body }),
      };
      expect((await http2Exchange(strict, headers, sent)) === result).toBe(true);
    }
  });
}

/** Returns the body of the response, or status and code of problem details. */
async function http2Exchange(
  port: number,
  headers: IncomingHttpHeaders,
  body?: Buffer,
): Promise<string> {
  const session = connect(`http://127.0.0.1:${port}`);
  onTestFinished(() => session.destroy());
  const stream = session.request(headers, { endStream: body === undefined || body.length === 0 });
  if (body !== undefined && body.length > 0) stream.end(body);
  const [response] = (await once(stream, "response")) as [IncomingHttpHeaders];
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  session.close();
  const text = Buffer.concat(parts).toString();
  return response["content-type"] === "application/problem+json"
    ? `${response[":status"]} ${JSON.parse(text).code}`
    : text;
}

function callerOrNone(read: () => { sub: string }): string {
  try {
    return read().sub;
  } catch {
    return "none";
  }
}

test("a handler without verification sees no caller", async () => {
  const app = express();
  app.get("/", (request, response) => {
    expect(() => expressAdapter.callerOf(request)).toThrow("no verified caller");
    response.send("none");
  });
  const port = await listen(createHttp1(app));
  expect((await exchange(port, "/", [signed(gw, "GET", "/")])).text).toBe("none");
});

test("Express: a body that was read before cannot be verified", async () => {
  const app = express();
  app.use(express.raw());
  app.use(expressAdapter.verifyAssertions(gw.verifier({ ...options, requireBodyBinding: true })));
  const port = await listen(createHttp1(app));
  const body = Buffer.from("x");
  const reply = await exchange(
    port,
    "/echo",
    [gw.assertion("POST", `https://${HOST}/echo`, { body })],
    { method: "POST", body, headers: ["Content-Type: application/octet-stream"] },
  );
  expect(reply.code).toBe("assertion-body");
});

test("Fastify: routes that were added before are an error", async () => {
  const app = Fastify();
  await app.register(async (child) => {
    child.get("/orders", () => "unverified");
  });
  expect(() => fastifyAdapter.verifyAssertions(app, gw.verifier())).toThrow(ConfigurationError);
});

test("Fastify: paths without a route are verified", async () => {
  const app = Fastify();
  fastifyAdapter.verifyAssertions(app, gw.verifier(options));
  await app.ready();
  const port = await listen(app.server);
  expect((await exchange(port, "/x")).code).toBe("assertion-missing");
  expect((await exchange(port, "/x", [signed(gw, "GET", "/x")])).status).toBe(404);
});

test("a body that ends early never reaches the handler", async () => {
  let calls = 0;
  const verifier = gw.verifier({ ...options, requireBodyBinding: true });
  const server = createHttp1();
  const refused = new Promise<AssertionRefused>((resolve) => {
    server.on("request", (request) => {
      nodeAdapter.verifyRequest(verifier, request).then(() => {
        calls += 1;
      }, resolve);
    });
  });
  const socket = connectTcp({ port: await listen(server), host: "127.0.0.1" });
  const token = gw.assertion("POST", `https://${HOST}/echo`, { body: Buffer.from("abc") });
  socket.write(
    `POST /echo HTTP/1.1\r\nHost: ${HOST}\r\nCountersign-Assertion: ${token}\r\n` +
      "Content-Length: 6\r\n\r\nabc",
  );
  await once(server, "request");
  socket.end();
  expect((await refused).code).toBe("assertion-body");
  expect(calls).toBe(0);
});

test("Fastify: a rewritten URL is not compared", async () => {
  const app = Fastify({ rewriteUrl: () => "/orders/7" });
  fastifyAdapter.verifyAssertions(app, gw.verifier(options));
  app.get("/orders/7", (request) => fastifyAdapter.callerOf(request).sub);
  await app.ready();
  const port = await listen(app.server);
  expect((await exchange(port, "/x", [signed(gw, "GET", "/orders/7")])).code).toBe(
    "assertion-path",
  );
  expect((await exchange(port, "/x", [signed(gw, "GET", "/x")])).text).toBe(CALLER);
});

test("Hono: servers that do not give the received target are refused", async () => {
  const app = honoApp(gw.verifier());
  const response = await app.request("/orders/7", { headers: gw.headers("GET", "/orders/7") });
  expect(response.status).toBe(403);
  expect(await response.json()).toMatchObject({ code: "assertion-request-unclear" });
});

test("Hono: the caller survives other middleware, and errors stay errors", async () => {
  const app = new Hono();
  app.use(honoAdapter.verifyAssertions(gw.verifier(options)));
  app.use(async (_context, next) => next());
  app.get("/boom", (context) => {
    throw new Error(honoAdapter.callerOf(context).sub);
  });
  app.onError((error, context) => context.text(error.message, 500));
  const port = await listen(honoServer(app));
  expect((await exchange(port, "/boom", [signed(gw, "GET", "/boom")])).text).toBe(CALLER);
});

test("node: an upgrade is verified by verifyRequest", async () => {
  const server = createHttp1();
  server.on("upgrade", (request, socket) => {
    nodeAdapter.verifyRequest(gw.verifier(options), request).then(
      () => socket.end(`HTTP/1.1 200 OK\r\n\r\n${nodeAdapter.callerOf(request).sub}`),
      (error: AssertionRefused) => socket.end(`HTTP/1.1 ${error.status} No\r\n\r\n${error.code}`),
    );
  });
  const port = await listen(server);
  const sent = { headers: ["Upgrade: websocket", "Connection: upgrade"] };
  expect((await exchange(port, "/ws", [signed(gw, "GET", "/ws")], sent)).text).toBe(CALLER);
  expect((await exchange(port, "/ws", [], sent)).text).toBe("assertion-missing");
});

test("a failing replay store refuses", async () => {
  const warnings: string[] = [];
  const replayStore = {
    admit() {
      throw new Error("broken");
    },
  };
  const verifier = gw.verifier({ ...options, replayStore, warn: (text) => warnings.push(text) });
  const port = await listen(createHttp1(nodeApp(verifier)));
  const reply = await exchange(port, "/", [signed(gw, "GET", "/")]);
  expect([reply.status, reply.code]).toEqual([503, "assertion-replay-cache-full"]);
  expect(warnings).toHaveLength(1);
});

test("adapters refuse wrong options", () => {
  expect(() => nodeAdapter.verifyAssertions({} as AssertionVerifier, () => {})).toThrow(
    ConfigurationError,
  );
  expect(() => expressAdapter.verifyAssertions(gw.verifier(), { maxBody: -1 })).toThrow(
    ConfigurationError,
  );
  expect(new AssertionRefused("assertion-path").status).toBe(403);
});
