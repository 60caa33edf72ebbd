/** Rules that the vectors cannot show: options, clocks, several calls, and what is printed. */

import { inspect } from "node:util";
import { expect, test } from "vitest";
import {
  AssertionRefused,
  AssertionVerifier,
  type AssertionVerifierOptions,
  Caller,
  ConfigurationError,
  MAX_ASSERTION,
  onlyAssertion,
  RequestParts,
} from "../src/index.js";
import { TestGateway } from "../src/testing.js";
import { CALLER, HOST, NOW, TestClock } from "./support.js";

const URL = `https://${HOST}/orders/7?x=1`;
const PARTS = new RequestParts("GET", HOST, "/orders/7?x=1");
const clock = new TestClock();
const gw = new TestGateway({ audience: "orders", clock: clock.read });
const valid = { issuer: "https://gateway.test", audience: "orders", keys: gw.keySet };

test("a verified caller", async () => {
  const token = gw.assertion("GET", URL, {
    sub: CALLER,
    trustDomain: "example.org",
    token: { iss: "https://idp.example", client_id: "app", groups: ["a"] },
    claims: { later: { version: 1 } },
  });
  const caller = await gw.verifier({ authority: undefined }).verify(token, PARTS);
  expect(caller).toBeInstanceOf(Caller);
  expect(caller).toMatchObject({
    sub: CALLER,
    trustDomain: "example.org",
    isRequestBound: true,
    iat: NOW,
    exp: NOW + 30,
    htm: "GET",
    authn: { methods: ["certificate"], revocation: "checked", resumed: false },
    certificate: { serial: "01", notBefore: NOW - 3600, sans: { uri: [CALLER], dns: [] } },
    token: { iss: "https://idp.example", clientId: "app", other: { groups: ["a"] } },
    claims: { later: { version: 1 } },
  });
  expect(inspect(caller)).toBe(`Caller(${CALLER})`);
  expect(() => Object.assign(caller, { sub: "other" })).toThrow(TypeError);
  expect(() => Object.assign(caller.authn, { resumed: true })).toThrow(TypeError);
});

const THUMBPRINT = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0";
const certificate = {
  "x5t#S256": THUMBPRINT,
  serial: "01",
  issuer: "CN=Test",
  not_before: NOW,
  not_after: NOW,
  sans: { uri: [], dns: [], email: [], ip: [] },
  anchor: "a",
};
const authn = {
  methods: ["certificate"],
  trust_domain: "example.org",
  revocation: "checked",
  at: NOW,
  resumed: false,
};
const compact = { client_cert: undefined, authn: { ...authn, "x5t#S256": THUMBPRINT } };

function verified(claims: object, sub = CALLER): Promise<Caller> {
  const token = gw.assertion("GET", URL, { sub, claims: { ...claims } });
  return gw.verifier({ authority: undefined }).verify(token, PARTS);
}

test.each([
  ["full", { client_cert: certificate, authn }],
  ["compact", compact],
  [
    "compact, with a token",
    { ...compact, authn: { ...compact.authn, methods: ["certificate", "token"] } },
  ],
])("a caller with a certificate, %s", async (name, claims) => {
  const caller = await verified(claims);
  expect(caller.certificate === undefined).toBe(name !== "full");
  expect(caller.hasCertificate).toBe(true);
  expect(caller.certificateThumbprint).toBe(THUMBPRINT);
  expect(caller.trustDomain).toBe("example.org");
});

test.each(["api-key:ci", "client:corporate/web"])(
  "a caller without certificate, %s",
  async (sub) => {
    const caller = await verified({}, sub);
    expect(caller.certificate).toBeUndefined();
    expect(caller.hasCertificate).toBe(false);
    expect(caller.certificateThumbprint).toBeUndefined();
  },
);

test("what was left out of a certificate", async () => {
  const read = async (changes: object) =>
    (await verified({ client_cert: { ...certificate, ...changes } })).certificate;
  expect(await read({})).toMatchObject({ sansTruncated: false, issuerTruncated: false });
  expect(await read({ sans_truncated: true })).toMatchObject({
    issuer: "CN=Test",
    sansTruncated: true,
    issuerTruncated: false,
  });
  expect(await read({ issuer: "", issuer_truncated: true })).toMatchObject({
    issuer: "",
    sansTruncated: false,
    issuerTruncated: true,
  });
});

test.each([
  ...[null, "true", 1].flatMap((value) => [
    { client_cert: { ...certificate, sans_truncated: value } },
    { client_cert: { ...certificate, issuer_truncated: value } },
  ]),
  ...[7, ["x"], {}].map((value) => ({ ...compact, authn: { ...authn, "x5t#S256": value } })),
])("members of a wrong type: %j", async (claims) => {
  await expect(verified(claims)).rejects.toMatchObject({ code: "assertion-claims" });
});

test.each([
  [29, "assertion-expired"],
  [-29, "assertion-not-yet-valid"],
])("a clock that is off by %i seconds", async (offset, code) => {
  const token = gw.assertion("GET", URL, { lifetime: 1, claims: { exp: NOW + 1 } });
  const at = (now: number, skew: number) =>
    gw.verifier({ authority: undefined, skew, clock: () => now }).verify(token, PARTS);
  // 30 s are allowed at most, so that 29 s pass and 31 s never do.
  await at(NOW + offset, 30);
  await at(NOW + offset, 29);
  for (const skew of [0, 10, 30]) {
    const beyond = Math.sign(offset) * 31;
    await expect(at(NOW + beyond, skew)).rejects.toMatchObject({ code });
  }
  await expect(at(NOW + offset, 10)).rejects.toMatchObject({ code });
});

test("a clock that returns no number refuses", async () => {
  const verifier = gw.verifier({ authority: undefined, clock: () => Number.NaN });
  await expect(verifier.verify(gw.assertion("GET", URL), PARTS)).rejects.toMatchObject({
    code: "assertion-expired",
  });
});

test("EdDSA", async () => {
  const ed25519 = new TestGateway({ audience: "orders", algorithm: "EdDSA" });
  const verifier = ed25519.verifier({ authority: undefined });
  await verifier.verify(ed25519.assertion("GET", URL), PARTS);
  await verifier.verify(ed25519.assertion("GET", URL, { header: { alg: "Ed25519" } }), PARTS);
  await expect(
    verifier.verify(ed25519.assertion("GET", URL, { header: { alg: "ES256" } }), PARTS),
  ).rejects.toMatchObject({ code: "assertion-algorithm" });
});

test("every change of a token is refused", async () => {
  const verifier = gw.verifier({ authority: undefined });
  const token = gw.assertion("GET", URL);
  for (let index = 0; index < token.length; index += 7) {
    const changed = `${token.slice(0, index)}${token[index] === "A" ? "B" : "A"}${token.slice(index + 1)}`;
    await expect(verifier.verify(changed, PARTS)).rejects.toBeInstanceOf(AssertionRefused);
  }
  for (const sent of [null, undefined, 1, {}, [token]]) {
    await expect(verifier.verify(sent as never, PARTS)).rejects.toMatchObject({
      code: "assertion-malformed",
    });
  }
});

test("the longest assertion", async () => {
  const verifier = gw.verifier({ authority: undefined });
  const padded = (length: number) =>
    gw.assertion("GET", URL, { claims: { pad: "x".repeat(length) } });
  let length = 2_000;
  while (padded(length + 1).length <= MAX_ASSERTION) length += 1;
  await verifier.verify(padded(length), PARTS);
  await expect(verifier.verify(padded(length + 3), PARTS)).rejects.toMatchObject({
    code: "assertion-malformed",
  });
});

test("bodies", async () => {
  const body = Buffer.from("body");
  const bound = gw.assertion("GET", URL, { body });
  const free = gw.assertion("GET", URL);
  const verifier = gw.verifier({ authority: undefined });
  const strict = gw.verifier({ authority: undefined, requireBodyBinding: true });
  const caller = await verifier.verify(bound, PARTS, { body });
  expect(caller.matchesBody(body)).toBe(true);
  expect(caller.matchesBody(Buffer.from("other"))).toBe(false);
  expect((await verifier.verify(free, PARTS, { body })).matchesBody(body)).toBeUndefined();
  await verifier.verify(bound, PARTS);
  await strict.verify(bound, PARTS, { body });
  await expect(strict.verify(bound, PARTS)).rejects.toMatchObject({
    code: "assertion-body-not-bound",
  });
  await expect(strict.verify(free, PARTS, { body })).rejects.toMatchObject({
    code: "assertion-body-not-bound",
  });
  await expect(verifier.verify(bound, PARTS, { body: Buffer.from("x") })).rejects.toMatchObject({
    code: "assertion-body",
  });
});

test.each<[Partial<Record<keyof AssertionVerifierOptions | "audiance", unknown>>, string]>([
  [{ issuer: "" }, "no issuer"],
  [{ audience: undefined }, "no audience"],
  [{ audience: ["orders"] }, "no audience"],
  [{ audiance: "x" }, "no option audiance"],
  [{ keys: undefined }, "exactly one"],
  [{ jwksUrl: "https://gateway.test/keys" }, "exactly one"],
  [{ keys: "{}" }, "not usable"],
  [{ keys: { keys: [] } }, "no usable key"],
  [{ caFile: "roots.pem" }, "jwksUrl only"],
  [{ skew: 31 }, "skew"],
  [{ skew: -1 }, "skew"],
  [{ skew: 1.5 }, "skew"],
  [{ skew: Number.NaN }, "skew"],
  [{ skew: "10" }, "skew"],
  [{ authority: "https://x" }, "authority"],
  [{ authority: "" }, "authority"],
  [{ authority: "x/y" }, "authority"],
  [{ warn: "log" }, "warn"],
  [{ pathPrefix: "api" }, "prefix"],
  [{ pathPrefix: "/" }, "prefix"],
  [{ pathPrefix: "/api/" }, "prefix"],
  [{ pathPrefix: "/api?" }, "prefix"],
  [{ unverifiedPaths: "/healthz" }, "list of paths"],
  [{ unverifiedPaths: ["healthz"] }, "exact raw paths"],
  [{ unverifiedPaths: ["/health/*"] }, "exact raw paths"],
  [{ unverifiedPaths: ["/healthz?x"] }, "exact raw paths"],
  [{ unverifiedPaths: [/./] }, "exact raw paths"],
  [{ replayStore: {} }, "admit"],
  [{ allowCallerBinding: "no" }, "allowCallerBinding"],
  [{ requireBodyBinding: 1 }, "requireBodyBinding"],
])("wrong options: %j", (options, problem) => {
  const make = () => new AssertionVerifier({ ...valid, ...options } as AssertionVerifierOptions);
  expect(make).toThrow(ConfigurationError);
  expect(make).toThrow(problem);
});

test.each([
  "http://gateway.example.org/keys",
  "http://127.0.0.1.example.org/keys",
  "http://127.0.0.1@example.org/keys",
  "http://localhost.example.org/keys",
  "https://user:secret@gateway.example.org/keys",
  "https://@gateway.example.org/keys",
  "https://gateway.example.org/keys#x",
  "https://gateway.example.org/ keys",
  "https://gateway.example.org\\keys",
  "ftp://localhost/keys",
  "file:///etc/keys",
  "gateway.example.org",
  "https://",
  "",
])("keys are not fetched from %j", (jwksUrl) => {
  expect(() => gw.verifier({ jwksUrl })).toThrow("keys are fetched over https");
});

test.each(["http://localhost:1/keys", "http://127.9.9.9/keys", "http://[::1]:1/keys"])(
  "keys may be fetched from %s",
  (jwksUrl) => {
    gw.verifier({ jwksUrl });
  },
);

test("targets that are no path, and hosts that are unclear", () => {
  for (const target of ["*", "", "orders", "https://x/", "/a#b", "/a?#"]) {
    expect(() => new RequestParts("GET", HOST, target)).toThrow("assertion-request-unclear");
  }
  for (const hosts of [[], [HOST, HOST], ["a,b"], ["a b"], ["\xe9"], ["1/x?"], ["a@b"], [""]]) {
    expect(new RequestParts("GET", hosts, "/").authority).toBeUndefined();
  }
  expect(inspect(new RequestParts("GET", HOST, "/a?secret"))).toBe(`RequestParts(GET ${HOST} /a)`);
});

test("exactly one assertion", () => {
  expect(onlyAssertion(["a"])).toBe("a");
  expect(() => onlyAssertion([])).toThrow("assertion-missing");
  expect(() => onlyAssertion(["a", "a"])).toThrow("assertion-duplicate");
});

test("refusals contain no part of the token", async () => {
  const token = gw.assertion("GET", URL, { sub: "spiffe://secret" });
  const refused = await gw
    .verifier({ authority: undefined })
    .verify(token, new RequestParts("GET", HOST, "/other"))
    .catch((error: AssertionRefused) => error);
  expect(refused).toMatchObject({ name: "AssertionRefused", code: "assertion-path", status: 403 });
  expect(inspect(refused)).not.toContain("spiffe://secret");
  expect(inspect(gw.verifier())).toBe(
    "AssertionVerifier(issuer=https://gateway.test audience=orders)",
  );
});
