/** The test kit, used as in the tests of a service, and the example. */

import { createServer } from "node:http";
import Fastify from "fastify";
import { expect, test } from "vitest";
import { orders } from "../examples/orders.js";
import * as fastifyAdapter from "../src/fastify.js";
import { type AssertionVerifier, RequestParts } from "../src/index.js";
import { TestGateway } from "../src/testing.js";
import { honoApp, nodeApp } from "./applications.js";
import { listen } from "./support.js";

const CALLER = "spiffe://test.example/caller";

test("the example, as a service's unit test", async () => {
  const gw = new TestGateway({ audience: "orders" });
  const url = `http://127.0.0.1:${await listen(createServer(orders(gw.verifier())))}`;
  const response = await fetch(`${url}/orders/7`, { headers: gw.headers("GET", "/orders/7") });
  expect(await response.json()).toEqual({ number: "7", caller: CALLER });

  const refused = await fetch(`${url}/orders/8`, { headers: gw.headers("GET", "/orders/7") });
  expect([refused.status, code(await refused.json())]).toEqual([403, "assertion-path"]);
});

test("the example's own settings", () => {
  // Nothing is fetched before the first request.
  expect(typeof orders()).toBe("function");
});

test("Fastify's inject", async () => {
  const gw = new TestGateway({ audience: "orders" });
  const app = Fastify();
  fastifyAdapter.verifyAssertions(app, gw.verifier());
  app.get("/orders/:id", (request) => fastifyAdapter.callerOf(request).sub);
  const headers = gw.headers("GET", "/orders/7?x=1", { sub: "api-key:ci" });
  expect((await app.inject({ url: "/orders/7?x=1", headers })).body).toBe("api-key:ci");
  expect((await app.inject({ url: "/orders/7", headers })).statusCode).toBe(403);
});

test("Hono's request", async () => {
  const gw = new TestGateway({ audience: "orders" });
  const app = honoApp(gw.verifier());
  const response = await app.request("/orders/7", {}, gw.bindings("GET", "/orders/7"));
  expect(await response.text()).toBe(CALLER);
  const unsigned = { incoming: { method: "GET", url: "/orders/7", rawHeaders: [] } };
  expect((await app.request("/orders/7", {}, unsigned)).status).toBe(401);
  const other = await app.request("/orders/8", {}, gw.bindings("GET", "/orders/7"));
  expect(code(await other.json())).toBe("assertion-request-unclear");
});

test("whole URLs are compared with the request's own host", async () => {
  const gw = new TestGateway({ audience: "orders" });
  const own = gw.verifier({ authority: undefined });
  const url = `http://127.0.0.1:${await listen(createServer(nodeApp(own)))}`;
  for (const target of ["", "/", "/a%2Fb?x=%31"]) {
    const sent = `${url}${target}`;
    const response = await fetch(sent, { headers: gw.headers("GET", sent) });
    expect(await response.text()).toBe(CALLER);
  }
  const response = await fetch(url, { headers: gw.headers("GET", "https://other.example/") });
  expect(code(await response.json())).toBe("assertion-authority");
});

test("a served key set follows rotation", async () => {
  const gw = new TestGateway({ audience: "orders", algorithm: "EdDSA" });
  const { url, close } = await gw.serve();
  const verifier = gw.verifier({ jwksUrl: url });
  await check(verifier, gw);
  gw.rotate();
  await verifier.fetchKeys();
  await check(verifier, gw);
  verifier.close();
  await close();
});

test("all kinds of callers", async () => {
  const gw = new TestGateway({ audience: "orders" });
  for (const sub of ["dns:a.example", "mailto:a@b.example", "ip:::1", "api-key:ci", "client:i/c"]) {
    const token = gw.assertion("GET", "/", { sub });
    const parts = new RequestParts("GET", gw.authority, "/");
    const caller = await gw.verifier().verify(token, parts);
    expect(caller.sub).toBe(sub);
    expect(caller.certificate === undefined).toBe(/^(api-key|client):/.test(sub));
    expect(caller.trustDomain).toBe(caller.certificate && "test.example");
  }
});

test("mistakes in a test are errors", () => {
  const gw = new TestGateway({ audience: "orders" });
  for (const url of ["orders", "https:///x", "/a#b", "https://x/a#b"]) {
    expect(() => gw.headers("GET", url)).toThrow();
  }
});

function code(problem: unknown): string {
  return (problem as { code: string }).code;
}

async function check(verifier: AssertionVerifier, gw: TestGateway): Promise<void> {
  const token = gw.assertion("GET", "/");
  await verifier.verify(token, new RequestParts("GET", gw.authority, "/"));
}
