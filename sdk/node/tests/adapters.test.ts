/** Each adapter through a real server of its framework. */

import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer as createHttp1 } from "node:http";
import { connect, createServer, type IncomingHttpHeaders } from "node:http2";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import express from "express";
import Fastify, { type FastifyInstance } from "fastify";
import { Hono } from "hono";
import { methodOverride } from "hono/method-override";
import { afterEach, expect, onTestFinished, test, vi } from "vitest";
import * as expressAdapter from "../src/express.js";
import * as fastifyAdapter from "../src/fastify.js";
import * as honoAdapter from "../src/hono.js";
import { AssertionRefused, type AssertionVerifier, ConfigurationError } from "../src/index.js";
import * as nodeAdapter from "../src/node.js";
import * as requestParts from "../src/request.js";
import { TestGateway } from "../src/testing.js";
import { applications, honoApp, honoServer, nodeApp } from "./applications.js";
import {
  checkAll,
  checkBodies,
  checkUnclearHosts,
  REFUSED_BY_SOME,
  signed,
  TARGETS,
  UNCLEAR_HOSTS,
} from "./http-cases.js";
import { CALLER, exchange, HOST, listen } from "./support.js";

const gw = new TestGateway({ audience: "orders" });
// The request's own host is compared.
const options = { authority: undefined, unverifiedPaths: ["/healthz"] };

afterEach(() => vi.restoreAllMocks());

for (const [name, make] of Object.entries(applications)) {
  test(`${name}: targets, hosts and refusals`, async () => {
    await checkAll(await listen(await make(gw.verifier(options))), gw);
  });

  test(`${name}: hosts that are no hosts`, async () => {
    const verifier = gw.verifier({ ...options, authority: HOST });
    await checkUnclearHosts(await listen(await make(verifier)), gw);
  });

  test(`${name}: bodies`, async () => {
    const verifier = gw.verifier({ ...options, requireBodyBinding: true });
    await checkBodies(await listen(await make(verifier)), gw);
  });
}

/** Frameworks split paths before they decode them, file servers do not: see the README. */
test("encoded slashes", async () => {
  const root = await mkdtemp(join(tmpdir(), "countersign-"));
  onTestFinished(() => rm(root, { recursive: true }));
  await mkdir(join(root, "a"));
  await writeFile(join(root, "a", "b"), "the file a/b");

  const expressApp = express();
  expressApp.use(expressAdapter.verifyAssertions(gw.verifier(options)));
  expressApp.get("/files/:name", (request, response) => {
    response.send(`one ${request.params.name}`);
  });
  expressApp.get("/files/a/:name", (request, response) => {
    response.send(`two ${request.params.name}`);
  });
  expressApp.use(express.static(root));
  const fastify = Fastify();
  fastifyAdapter.verifyAssertions(fastify, gw.verifier(options));
  type Named = { Params: { name: string } };
  fastify.get<Named>("/files/:name", (request) => `one ${request.params.name}`);
  fastify.get<Named>("/files/a/:name", (request) => `two ${request.params.name}`);
  await fastify.ready();

  const hono = new Hono();
  hono.use(honoAdapter.verifyAssertions(gw.verifier(options)));
  hono.get("/files/:name", (context) => context.text(`one ${context.req.param("name")}`));
  hono.get("/files/a/:name", (context) => context.text(`two ${context.req.param("name")}`));

  for (const server of [createHttp1(expressApp), fastify.server, honoServer(hono)]) {
    const port = await listen(server);
    for (const [path, seen] of [
      ["a%2Fb", "one a/b"],
      ["a/b", "two b"],
      ["a%2Fb|", "one a/b|"],
    ]) {
      const target = `/files/${path}`;
      expect((await exchange(port, target, [signed(gw, "GET", target)])).text).toBe(seen);
    }
  }
  const port = await listen(createHttp1(expressApp));
  const reply = await exchange(port, "/a%2Fb", [signed(gw, "GET", "/a%2Fb")]);
  expect(reply.text).toBe("the file a/b");
});

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

    const fixed = await start(gw.verifier({ ...options, authority: HOST }));
    // Node.js itself refuses the other ones over HTTP/2.
    for (const host of UNCLEAR_HOSTS.filter((host) => /^[\w@%,]+$/.test(host))) {
      for (const [path, more] of [
        ["/healthz", {}],
        ["/orders/7", { "countersign-assertion": token }],
      ] as const) {
        const headers = { ":authority": host, ":path": path, ...more };
        const result = await http2Exchange(fixed, headers);
        // Hono's server refuses some of them itself.
        if (result !== "") expect([host, result]).toEqual([host, "403 assertion-request-unclear"]);
      }
    }

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

test("Fastify: inside of a plugin, the routes of other plugins would not be verified", async () => {
  const app = Fastify();
  app.register(async (child) => fastifyAdapter.verifyAssertions(child, gw.verifier()));
  app.register(async (child) => {
    child.get("/orders", () => "unverified");
  });
  await expect(app.ready()).rejects.toThrow("outermost");
});

test("Fastify: a plugin without a context of its own may call it", async () => {
  const app = Fastify();
  const plugin = async (same: FastifyInstance) =>
    fastifyAdapter.verifyAssertions(same, gw.verifier(options));
  app.register(Object.assign(plugin, { [Symbol.for("skip-override")]: true }));
  app.register(async (child) => {
    child.get("/orders", (request) => fastifyAdapter.callerOf(request).sub);
  });
  await app.ready();
  const port = await listen(app.server);
  expect((await exchange(port, "/orders")).code).toBe("assertion-missing");
  expect((await exchange(port, "/orders", [signed(gw, "GET", "/orders")])).text).toBe(CALLER);
});

test("Fastify: plugins that were loaded before are an error, even without routes", async () => {
  for (const plugin of [
    async () => {},
    async (child: FastifyInstance) => {
      child.setNotFoundHandler((_request, reply) => reply.send("unverified"));
    },
  ]) {
    const app = Fastify();
    await app.register(plugin, { prefix: "/p" });
    expect(() => fastifyAdapter.verifyAssertions(app, gw.verifier())).toThrow(ConfigurationError);
  }
});

test("Fastify: a plugin that is loaded later is verified, and so is an earlier handler for unknown paths", async () => {
  const app = Fastify();
  app.setNotFoundHandler((_request, reply) => reply.code(200).send("unverified"));
  app.register(async (child) => {
    child.get("/orders", () => "unverified");
  });
  fastifyAdapter.verifyAssertions(app, gw.verifier(options));
  await app.ready();
  const port = await listen(app.server);
  expect((await exchange(port, "/orders")).code).toBe("assertion-missing");
  expect((await exchange(port, "/x")).code).toBe("assertion-missing");
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

test("Hono: the host does not decide which handler runs", async () => {
  // Also without the check of the host.
  for (const isPlainHost of [true, false]) {
    if (!isPlainHost) vi.spyOn(requestParts, "isPlainHost").mockReturnValue(true);
    const app = new Hono();
    app.use(honoAdapter.verifyAssertions(gw.verifier({ ...options, authority: HOST })));
    app.get("/healthz", (context) => context.text("healthy"));
    app.get("/admi", (context) => context.text("unverified"));
    app.get("*", (context) => context.text(context.req.path));
    const port = await listen(honoServer(app));
    for (const host of ["1/admi?", "1/admi#"]) {
      const sent = { hosts: [host] };
      expect((await exchange(port, "/healthz", [], sent)).code).toBe("assertion-request-unclear");
      const tokens = [signed(gw, "GET", "/orders/7")];
      expect((await exchange(port, "/orders/7", tokens, sent)).code).toBe(
        "assertion-request-unclear",
      );
    }
    expect((await exchange(port, "/healthz")).text).toBe("healthy");
  }
});

test("Hono: another request with the same environment is refused", async () => {
  const app = new Hono();
  app.use(methodOverride({ app, header: "X-HTTP-Method-Override" }));
  app.use(honoAdapter.verifyAssertions(gw.verifier(options)));
  app.all("*", (context) => context.text(`${context.req.method} ${context.req.path}`));
  const rewriting = new Hono();
  rewriting.all("/rewritten", (context) =>
    app.fetch(new Request(new URL("/orders/7", context.req.url), context.req.raw), context.env),
  );
  rewriting.mount("/api", app.fetch);
  rewriting.all("*", (context) => app.fetch(context.req.raw, context.env));
  const port = await listen(honoServer(rewriting));
  const send = (method: string, target: string, headers: string[] = []) =>
    exchange(port, target, [signed(gw, method, target)], { method, headers });
  expect((await send("POST", "/orders/7")).text).toBe("POST /orders/7");
  const overridden = await send("POST", "/orders/7", ["X-HTTP-Method-Override: DELETE"]);
  expect(overridden.code).toBe("assertion-request-unclear");
  expect((await send("GET", "/rewritten")).code).toBe("assertion-request-unclear");
  expect((await send("GET", "/api/orders/%37?x")).text).toBe("GET /orders/7");
  expect((await send("GET", "/api")).text).toBe("GET /");
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

test.each([
  () => {
    throw new Error("no log");
  },
  async () => {
    throw new Error("no log");
  },
])("a failing warn does not change the result (%#)", async (warn) => {
  const emitted = vi.spyOn(process, "emitWarning").mockReturnValue();
  const replayStore = { admit: () => Promise.reject(new Error("broken")) };
  const verifier = gw.verifier({ ...options, replayStore, warn });
  const port = await listen(createHttp1(nodeApp(verifier)));
  const reply = await exchange(port, "/", [signed(gw, "GET", "/")]);
  expect([reply.status, reply.code]).toEqual([503, "assertion-replay-cache-full"]);
  expect(emitted).toHaveBeenCalledOnce();
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
