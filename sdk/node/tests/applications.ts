/**
 * One application for each framework. It responds with the caller's `sub`, with `none` on /healthz,
 * and on /echo with the body.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { createAdaptorServer } from "@hono/node-server";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import * as expressAdapter from "../src/express.js";
import * as fastifyAdapter from "../src/fastify.js";
import * as honoAdapter from "../src/hono.js";
import type { AssertionVerifier } from "../src/index.js";
import * as nodeAdapter from "../src/node.js";

type Make = (verifier: AssertionVerifier) => Server | Promise<Server>;

export const applications: Record<string, Make> = {
  "node:http": (verifier) => createServer(nodeApp(verifier)),
  Express: (verifier) => createServer(expressApp(verifier)),
  "Express, mounted": mountedExpress,
  Fastify: fastifyServer,
  Hono: (verifier) => honoServer(honoApp(verifier)),
  "Hono, mounted": mountedHono,
};

function subject(read: () => { sub: string }): string {
  try {
    return read().sub;
  } catch {
    return "none";
  }
}

export function nodeApp(verifier: AssertionVerifier) {
  return nodeAdapter.verifyAssertions(
    verifier,
    async (
      request: IncomingMessage | Http2ServerRequest,
      response: ServerResponse | Http2ServerResponse,
    ) => {
      if (request.url !== "/echo") {
        response.end(subject(() => nodeAdapter.callerOf(request)));
        return;
      }
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part);
      response.end(Buffer.concat(parts));
    },
  );
}

export function expressApp(verifier: AssertionVerifier): express.Express {
  const app = express();
  app.use(expressAdapter.verifyAssertions(verifier));
  app.post("/echo", express.raw({ limit: "2mb" }), (request, response) => {
    response.send(Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0));
  });
  app.use((request, response) => {
    response.send(subject(() => expressAdapter.callerOf(request)));
  });
  return app;
}

/** Express and its routers change `url` of mounted parts. */
function mountedExpress(verifier: AssertionVerifier): Server {
  const app = express();
  const inner = expressApp(verifier);
  const router = express.Router();
  router.use(inner);
  app.use(["/orders", "/healthz", "/a"], router);
  app.use(router);
  return createServer(app);
}

async function fastifyServer(verifier: AssertionVerifier): Promise<Server> {
  // Fastify's own names for routes are not compared with anything.
  const app = Fastify({
    routerOptions: { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true },
  });
  fastifyAdapter.verifyAssertions(app, verifier);
  app.addContentTypeParser(
    "application/octet-stream",
    { parseAs: "buffer", bodyLimit: 2 << 20 },
    (_request, body, done) => done(null, body),
  );
  app.get("/healthz", (request) => subject(() => fastifyAdapter.callerOf(request)));
  app.post("/echo", (request, reply) => reply.send(request.body ?? Buffer.alloc(0)));
  app.register(async (child) => {
    child.get("/orders/:id", (request) => subject(() => fastifyAdapter.callerOf(request)));
  });
  // Paths without a route are verified too.
  app.setNotFoundHandler((request, reply) => {
    reply.code(200).send(subject(() => fastifyAdapter.callerOf(request)));
  });
  await app.ready();
  return app.server;
}

export function honoApp(verifier: AssertionVerifier): Hono {
  const app = new Hono();
  app.use(honoAdapter.verifyAssertions(verifier));
  app.post("/echo", async (context) => context.body(await context.req.arrayBuffer()));
  app.all("*", (context) => context.text(subject(() => honoAdapter.callerOf(context))));
  return app;
}

function mountedHono(verifier: AssertionVerifier): Server {
  const app = new Hono();
  app.mount("/orders", honoApp(verifier).fetch);
  app.route("/a", honoApp(verifier));
  app.route("/", honoApp(verifier));
  return honoServer(app);
}

export function honoServer(app: Hono): Server {
  return createAdaptorServer(app) as Server;
}
