/** Requests that every adapter is tested with, through real servers. */

import { expect } from "vitest";
import { TestGateway } from "../src/testing.js";
import { CALLER, exchange, HOST, type Reply } from "./support.js";

/** Targets that must arrive as they were sent. */
export const TARGETS = [
  "/orders/7",
  "/orders/%37",
  "/a%2Fb/c",
  "/a%2fb/c",
  "/orders/7;v=1/x",
  "/a+b",
  "/a%20b",
  "/caf%C3%A9",
  "/%C3%28",
  "/a/./b/../c",
  "//orders//7",
  "//evil.example/orders",
  "/orders/7/",
  "/%00",
  "/%25%37",
  "/~a!$&'()*,=:@",
  "/a|b\\c^[d]",
  "/orders/7?x=1",
  "/orders/7?x=1&x=%31+2",
  "/orders/7??",
  "/orders/7?",
  "/orders/7?a=/b?c",
  "/orders/7?%",
  "/",
];

/** Some frameworks refuse these themselves, because they are no UTF-8 or no URLs. */
export const REFUSED_BY_SOME = ["/%C3%28", "/a|b\\c^[d]"];

// [signed, sent, code]: targets that frameworks may regard as equal.
const CONFUSIONS = [
  ["/orders/7", "/orders/%37", "assertion-path"],
  ["/orders/%37", "/orders/7", "assertion-path"],
  ["/a/b", "/a%2Fb", "assertion-path"],
  ["/a%2Fb", "/a%2fb", "assertion-path"],
  ["/orders/7", "/orders/7;v=1", "assertion-path"],
  ["/orders/7", "//orders/7", "assertion-path"],
  ["/orders/7", "/orders/7/", "assertion-path"],
  ["/orders/7", "/orders/x/../7", "assertion-path"],
  ["/a/b", "/a\\b", "assertion-path"],
  ["/a%20b", "/a+b", "assertion-path"],
  ["/orders/7", "/Orders/7", "assertion-path"],
  ["/orders/7", "/orders/7?x=1", "assertion-query"],
  ["/orders/7?x=1", "/orders/7", "assertion-query"],
  ["/orders/7?x=1", "/orders/7?x=%31", "assertion-query"],
  ["/orders/7?x=1&y=2", "/orders/7?y=2&x=1", "assertion-query"],
  ["/orders/7?x=+", "/orders/7?x=%20", "assertion-query"],
  ["/orders/7?", "/orders/7", "assertion-query"],
  ["/orders/7", "/orders/7?", "assertion-query"],
] as const;

// Hosts that change the path of `http://HOST/path`, or are no host.
export const UNCLEAR_HOSTS = [
  "1/admi?",
  "1/admi#",
  "a/admin?",
  "a\\admin?",
  "user@a",
  "a%2fadmin",
  "a,b",
  "a b",
  "\xdf/admi?",
  "",
];

/**
 * Checks what holds for every adapter behind every server.
 *
 * The application responds with the caller's `sub`, and with `none` on /healthz.
 */
export async function checkAll(port: number, gw: TestGateway): Promise<void> {
  await checkTargets(port, gw);
  await checkHosts(port, gw);
  await checkRefusals(port, gw);
  await checkUnverifiedPaths(port, gw);
}

export function signed(gw: TestGateway, method: string, target: string, host = HOST): string {
  return gw.assertion(method, `https://${host}${target}`, { sub: CALLER });
}

async function checkTargets(port: number, gw: TestGateway): Promise<void> {
  for (const target of TARGETS) {
    const reply = await exchange(port, target, [signed(gw, "GET", target)]);
    if (reply.status === 400 && REFUSED_BY_SOME.includes(target)) continue;
    expect([target, reply.status, reply.text]).toEqual([target, 200, CALLER]);
  }
  for (const [claimed, sent, code] of CONFUSIONS) {
    const reply = await exchange(port, sent, [signed(gw, "GET", claimed)]);
    if (reply.status === 400 && sent.includes("\\")) continue;
    expect([claimed, sent, reply.code]).toEqual([claimed, sent, code]);
  }
  // Bytes beyond ASCII: the server may refuse them, but nothing else may change them.
  const reply = await exchange(port, Buffer.from("/café?é").toString("latin1"), [
    signed(gw, "GET", "/café?é"),
  ]);
  if (reply.status === 200) expect(reply.text).toBe(CALLER);
  else expect(reply.status).toBe(400);
}

async function checkHosts(port: number, gw: TestGateway): Promise<void> {
  for (const host of ["orders.example.org:8443", "[::1]", "[2001:db8::1]:8443", "127.0.0.1:80"]) {
    const reply = await exchange(port, "/", [signed(gw, "GET", "/", host)], { hosts: [host] });
    expect([host, reply.status, reply.text]).toEqual([host, 200, CALLER]);
  }
  const token = signed(gw, "GET", "/");
  for (const host of ["Orders.example.org", `${HOST}:443`, `${HOST}.`, "evil.example"]) {
    const headers = [`X-Forwarded-Host: ${HOST}`, `Forwarded: host=${HOST}`];
    const reply = await exchange(port, "/", [token], { hosts: [host], headers });
    expect([host, reply.code]).toEqual([host, "assertion-authority"]);
  }
  for (const hosts of [
    [HOST, HOST],
    [HOST, "evil.example"],
    ["evil.example", HOST],
    [`${HOST}, ${HOST}`],
  ]) {
    // Some servers refuse this themselves.
    const reply = await exchange(port, "/", [token], { hosts });
    if (reply.status !== 400) expect(reply.code).toBe("assertion-request-unclear");
  }
  expect((await exchange(port, "/", [token], { hosts: [] })).status).toBe(400);
}

async function checkRefusals(port: number, gw: TestGateway): Promise<void> {
  const target = "/orders/7";
  const token = signed(gw, "GET", target);
  const code = async (...sent: Parameters<typeof exchange>) => (await exchange(...sent)).code;
  expect(await code(port, target)).toBe("assertion-missing");
  const head = await exchange(port, target, [], { method: "HEAD" });
  expect([head.status, head.text]).toEqual([401, ""]);
  expect(await code(port, target, [token, token])).toBe("assertion-duplicate");
  expect(await code(port, target, [`${token}, ${token}`])).toBe("assertion-malformed");
  expect(await code(port, target, [""])).toBe("assertion-malformed");
  expect(await code(port, target, [`${token}\xe9`])).toBe("assertion-malformed");
  expect(await code(port, target, ["x".repeat(4097)])).toBe("assertion-malformed");
  expect(await code(port, target, [token], { method: "POST" })).toBe("assertion-method");
  const overridden = { method: "POST", headers: ["X-HTTP-Method-Override: GET"] };
  expect(await code(port, target, [token], overridden)).toBe("assertion-method");
  const stranger = new TestGateway({ audience: gw.audience, issuer: gw.issuer });
  expect(await code(port, target, [signed(stranger, "GET", target)])).toBe("assertion-unknown-key");
  const other = gw.assertion("GET", `https://${HOST}${target}`, { claims: { aud: "payments" } });
  expect(await code(port, target, [other])).toBe("assertion-audience");
  const fake = { headers: [`Countersign-Caller: ${CALLER}`, `X-Original-URL: ${target}`] };
  expect(await code(port, target, [], fake)).toBe("assertion-missing");
  // Absolute form and asterisk form are not what a gateway sends.
  for (const unclear of [`http://${HOST}${target}`, `http://evil.example${target}`]) {
    const reply = await exchange(port, unclear, [token]);
    if (reply.status !== 400) expect(reply.code).toBe("assertion-request-unclear");
  }
  const options = signed(gw, "OPTIONS", "/");
  const reply = await exchange(port, "*", [options], { method: "OPTIONS" });
  if (reply.status !== 400) expect(reply.code).toBe("assertion-request-unclear");
  expect((await exchange(port, "/unknown/path", [])).code).toBe("assertion-missing");
}

async function checkUnverifiedPaths(port: number, gw: TestGateway): Promise<void> {
  for (const assertions of [[], [signed(gw, "GET", "/healthz")]]) {
    for (const target of ["/healthz", "/healthz?x"]) {
      const reply = await exchange(port, target, assertions);
      expect([reply.status, reply.text]).toEqual([200, "none"]);
    }
  }
  expect((await exchange(port, "/healthz", [], { method: "HEAD" })).status).toBe(200);
  const post = await exchange(port, "/healthz", [], { method: "POST" });
  expect(post.code).toBe("assertion-missing");
  for (const target of ["/%68ealthz", "//healthz", "/healthz/", "/healthz;", "/x/../healthz"]) {
    expect((await exchange(port, target)).code).toBe("assertion-missing");
  }
}

/** Checks that hosts are refused for unverified paths too, and if `authority` replaces them. */
export async function checkUnclearHosts(port: number, gw: TestGateway): Promise<void> {
  for (const host of UNCLEAR_HOSTS) {
    for (const [target, assertions] of [
      ["/healthz", []],
      ["/orders/7", [signed(gw, "GET", "/orders/7")]],
      ["/orders/7", []],
    ] as const) {
      const reply = await exchange(port, target, assertions, { hosts: [host] });
      // Some servers refuse some of them themselves.
      if (reply.status === 400) continue;
      expect([host, target, reply.code]).toEqual([host, target, "assertion-request-unclear"]);
    }
  }
  // `authority` replaces other hosts.
  const token = signed(gw, "GET", "/orders/7");
  const reply = await exchange(port, "/orders/7", [token], { hosts: ["10.0.0.7:8080"] });
  expect([reply.status, reply.text]).toEqual([200, CALLER]);
}

/** Checks an application that requires body binding, up to 1 MiB, and sends bodies back. */
export async function checkBodies(port: number, gw: TestGateway): Promise<void> {
  const send = (assertion: string, body?: Buffer, more: Parameters<typeof exchange>[3] = {}) =>
    exchange(port, "/echo", [assertion], {
      method: "POST",
      headers: ["Content-Type: application/octet-stream"],
      ...(body === undefined ? {} : { body }),
      ...more,
    });
  const bound = (body: Buffer) => gw.assertion("POST", `https://${HOST}/echo`, { body });
  const same = (reply: Reply, body: Buffer) => expect(reply.body.equals(body)).toBe(true);
  for (const body of [Buffer.from("x"), Buffer.alloc(300_000, "x"), Buffer.alloc(1 << 20, "y")]) {
    same(await send(bound(body), body), body);
  }
  const body = Buffer.alloc(300_000, "x");
  expect((await send(bound(body), Buffer.alloc(300_000, "y"))).code).toBe("assertion-body");
  expect((await send(bound(body))).code).toBe("assertion-body");
  const unbound = gw.assertion("POST", `https://${HOST}/echo`);
  expect((await send(unbound, body)).code).toBe("assertion-body-not-bound");
  same(await send(bound(Buffer.alloc(0))), Buffer.alloc(0));
  same(await send(bound(Buffer.alloc(0)), Buffer.alloc(0)), Buffer.alloc(0));
  const chunked = {
    headers: ["Transfer-Encoding: chunked", "Content-Type: application/octet-stream"],
    trailer: "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
  };
  same(await send(bound(Buffer.from("abcdef")), undefined, chunked), Buffer.from("abcdef"));
  const longer = Buffer.alloc((1 << 20) + 1);
  expect((await send(bound(longer), longer)).code).toBe("assertion-body-not-bound");
}
