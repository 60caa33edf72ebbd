/** Fetching and caching keys: hostile servers, floods, rotation and clocks. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttps } from "node:https";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, onTestFinished, type TestContext, test, vi } from "vitest";
import { freshness, limits } from "../src/fetch.js";
import { type AssertionVerifier, RequestParts } from "../src/index.js";
import {
  FileKeys,
  LAST_GOOD_SECONDS,
  MAX_UNKNOWN_KEYS,
  MAX_WAITING,
  MINIMUM_INTERVAL,
  MINIMUM_INTERVAL_WITHOUT_KEYS,
  RemoteKeys,
  UNKNOWN_KEY_SECONDS,
} from "../src/key-source.js";
import { TestGateway } from "../src/testing.js";
import { HOST, KeyEndpoint, lacking, listen, NOW, TestClock } from "./support.js";

const URL = `https://${HOST}/orders/7`;
const PARTS = new RequestParts("GET", HOST, "/orders/7");

let clock: TestClock;
let gw: TestGateway;
let endpoint: KeyEndpoint;
let warnings: string[];

beforeEach(async () => {
  clock = new TestClock();
  gw = new TestGateway({ audience: "orders", clock: clock.read });
  endpoint = await KeyEndpoint.start(gw.keySet);
  warnings = [];
});

afterEach(() => {
  limits.fetchTimeout = 4_800;
  vi.restoreAllMocks();
});

function remote(jwksUrl = endpoint.url, caFile?: string): AssertionVerifier {
  const warn = (message: string) => warnings.push(message);
  const verifier = gw.verifier({ authority: undefined, jwksUrl, caFile, warn });
  onTestFinished(() => verifier.close());
  return verifier;
}

function verify(verifier: AssertionVerifier, header: object = {}) {
  return verifier.verify(gw.assertion("GET", URL, { header: { ...header } }), PARTS);
}

async function code(verifier: AssertionVerifier, header: object = {}): Promise<string> {
  return verify(verifier, header).then(
    () => "verified",
    (error) => error.code,
  );
}

test("keys are fetched when they are first needed, and kept", async () => {
  endpoint.serves(gw.keySet, { "cache-control": "public, max-age=600" });
  const verifier = remote();
  expect(endpoint.requests).toHaveLength(0);
  for (let count = 0; count < 3; count += 1) await verify(verifier);
  clock.now += 599;
  await verify(verifier);
  expect(endpoint.requests).toHaveLength(1);
  clock.now += 1;
  await verify(verifier);
  expect(endpoint.requests).toHaveLength(2);
});

test.each([
  [{}, 300],
  [{ "cache-control": "max-age=1" }, 60],
  [{ "cache-control": "max-age=1000000" }, 86400],
  [{ "cache-control": "no-store, max-age=600" }, 60],
  [{ "cache-control": "no-cache" }, 60],
  [{ "cache-control": "max-age=600", age: "100" }, 500],
  [{ "cache-control": 'Max-Age="600"', age: "-1" }, 600],
  [{ "cache-control": "max-age=x" }, 300],
  [{ "cache-control": `max-age=${"9".repeat(5000)}` }, 300],
])("the server says how long keys are fresh (%#)", (headers, seconds) => {
  expect(freshness(headers)).toBe(seconds);
});

test("an unknown key is asked for once", async () => {
  const verifier = remote();
  await verify(verifier);
  clock.now += MINIMUM_INTERVAL;
  for (let count = 0; count < 3; count += 1) {
    expect(await code(verifier, { kid: "stranger" })).toBe("assertion-unknown-key");
  }
  clock.now += UNKNOWN_KEY_SECONDS - 1;
  expect(await code(verifier, { kid: "stranger" })).toBe("assertion-unknown-key");
  expect(endpoint.requests).toHaveLength(2);
});

test("10,000 unknown keys a second cause at most one fetch per interval", async () => {
  const source = new RemoteKeys(endpoint.url, undefined, clock.read, () => {});
  onTestFinished(() => source.close());
  await source.fetchNow();
  const seconds = 12;
  for (let second = 0; second < seconds; second += 1) {
    for (let number = 0; number < 10_000; number += 1) await source.forKey(`${second} ${number}`);
    clock.now += 1;
  }
  expect(endpoint.requests.length).toBeGreaterThan(1);
  expect(endpoint.requests.length).toBeLessThanOrEqual(1 + seconds / MINIMUM_INTERVAL);
  const { unknown } = source as unknown as { unknown: Map<string, number> };
  expect(unknown.size).toBeLessThanOrEqual(MAX_UNKNOWN_KEYS);
  expect((await source.forKey(gw.keyId)).has(gw.keyId)).toBe(true);
});

test("a flood does not keep a new key out", async () => {
  const verifier = remote();
  await verify(verifier);
  clock.now += MINIMUM_INTERVAL;
  gw.rotate();
  expect(await code(verifier, { kid: "stranger" })).toBe("assertion-unknown-key");
  endpoint.serves(gw.keySet);
  expect(await code(verifier)).toBe("assertion-unknown-key");
  clock.now += MINIMUM_INTERVAL;
  await verify(verifier);
});

test("keys rotate, and a removed key is not used", async () => {
  const verifier = remote();
  const old = gw.assertion("GET", URL, { lifetime: 300 });
  await verifier.verify(old, PARTS);
  gw.rotate();
  endpoint.serves(gw.keySet);
  clock.now += MINIMUM_INTERVAL;
  await verify(verifier);
  await verifier.verify(old, PARTS);
  gw.rotate({ keepOld: false });
  endpoint.serves(gw.keySet);
  clock.now += MINIMUM_INTERVAL;
  await verify(verifier);
  await expect(verifier.verify(old, PARTS)).rejects.toMatchObject({
    code: "assertion-unknown-key",
  });
});

test("all requests share one fetch", async () => {
  let finish = () => {};
  endpoint.respond = (response) => {
    finish = () => response.end(JSON.stringify(gw.keySet));
  };
  const verifier = remote();
  const results = Array.from({ length: 50 }, () => code(verifier));
  await endpoint.arrived(1);
  finish();
  expect(new Set(await Promise.all(results))).toEqual(new Set(["verified"]));
  expect(endpoint.requests).toHaveLength(1);
});

test("all requests share the failure of a server that hangs", async () => {
  limits.fetchTimeout = 300;
  endpoint.respond = () => {};
  const verifier = remote();
  const before = performance.now();
  const results = await Promise.all(Array.from({ length: 50 }, () => code(verifier)));
  expect(performance.now() - before).toBeLessThan(3_000);
  expect(new Set(results)).toEqual(new Set(["assertion-keys-unavailable"]));
  expect(endpoint.requests).toHaveLength(1);
  // The next fetch is not at once.
  expect(await code(verifier)).toBe("assertion-keys-unavailable");
  expect(endpoint.requests).toHaveLength(1);
  endpoint.serves(gw.keySet);
  clock.now += MINIMUM_INTERVAL_WITHOUT_KEYS;
  await verify(verifier);
  expect(warnings).toEqual([
    `cannot fetch the gateway's keys from ${endpoint.url}: the key server did not answer in time`,
  ]);
});

test("a server that sends slowly does not get more time", async () => {
  limits.fetchTimeout = 300;
  endpoint.respond = (response) => {
    const timer = setInterval(() => response.write(" "), 20);
    response.on("close", () => clearInterval(timer));
  };
  expect(await code(remote())).toBe("assertion-keys-unavailable");
  expect(warnings[0]).toContain("did not answer in time");
});

test("not too many requests wait", async () => {
  limits.fetchTimeout = 1_000;
  endpoint.respond = () => {};
  const source = new RemoteKeys(endpoint.url, undefined, clock.read, () => {});
  onTestFinished(() => source.close());
  const problems = await Promise.all(
    Array.from({ length: MAX_WAITING + 11 }, () =>
      source.forKey("x").then(
        () => "",
        (error) => error.message,
      ),
    ),
  );
  expect(problems.filter((problem) => problem.startsWith("too many calls"))).toHaveLength(10);
  expect(endpoint.requests).toHaveLength(1);
});

const other = new TestGateway({ audience: "orders" });
const hostile: Record<string, [respond: KeyEndpoint["respond"], problem: string]> = {
  "a redirect": [
    (response) => void response.writeHead(302, { location: "/other" }).end(),
    "status 302",
  ],
  "an error": [(response) => void response.writeHead(500).end(), "status 500"],
  "304 without a question": [(response) => void response.writeHead(304).end(), "status 304"],
  "no content": [(response) => void response.writeHead(204).end(), "status 204"],
  "10 MB": [
    (response) => {
      const part = Buffer.alloc(1 << 20, " ");
      for (let count = 0; count < 10; count += 1) response.write(part);
      response.end();
    },
    "longer than 1 MiB",
  ],
  HTML: [(response) => void response.end("<html>"), "not a key set"],
  "an empty body": [(response) => void response.end(), "not a key set"],
  "no keys member": [(response) => void response.end("{}"), "not a key set"],
  "duplicate members": [
    (response) => void response.end('{"keys":[],"keys":[]}'),
    "not a key set: key set has a duplicate member",
  ],
  "half a body": [
    (response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write('{"keys":[]}', () => response.destroy());
    },
    "incomplete",
  ],
  "no response": [(response) => void response.destroy(), "cannot be reached"],
};

test.each(Object.entries(hostile))("a key server that sends %s", async (_, [respond, problem]) => {
  endpoint.respond = respond;
  const verifier = remote();
  expect(await code(verifier)).toBe("assertion-keys-unavailable");
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toContain(problem);
  expect(endpoint.requests.map((request) => request.url)).toEqual(["/keys"]);
});

test("a key server that is no HTTP server, and none at all", async () => {
  const server = createServer((socket) => socket.resume().end("220 mail.example.org ESMTP\r\n"));
  const url = `http://127.0.0.1:${await listen(server)}/keys`;
  expect(await code(remote(url))).toBe("assertion-keys-unavailable");
  server.close();
  expect(await code(remote(url))).toBe("assertion-keys-unavailable");
  expect(warnings[1]).toContain("cannot be reached");
});

test("another gateway's keys, and an empty set", async () => {
  endpoint.serves(other.keySet);
  expect(await code(remote())).toBe("assertion-unknown-key");
  endpoint.serves({ keys: [] });
  expect(await code(remote())).toBe("assertion-unknown-key");
});

test("the last good keys are used for a day", async () => {
  const verifier = remote();
  await verify(verifier);
  endpoint.fails();
  clock.now += LAST_GOOD_SECONDS - 1;
  await verify(verifier);
  // An unknown key may be newer than these keys.
  expect(await code(verifier, { kid: "stranger" })).toBe("assertion-keys-unavailable");
  clock.now += 1;
  expect(await code(verifier)).toBe("assertion-keys-unavailable");
  endpoint.serves(gw.keySet);
  clock.now += MINIMUM_INTERVAL;
  await verify(verifier);
});

test("unchanged keys are confirmed", async () => {
  endpoint.serves(gw.keySet, { etag: '"1"' });
  const verifier = remote();
  await verify(verifier);
  endpoint.respond = (response) => void response.writeHead(304).end();
  clock.now += 1_000;
  await verify(verifier);
  expect(endpoint.requests[1]?.headers["if-none-match"]).toBe('"1"');
  clock.now += 299;
  await verify(verifier);
  expect(endpoint.requests).toHaveLength(2);
});

test("keys age after the clock is set back", async () => {
  clock.now += 1_000_000;
  const verifier = remote();
  await verify(verifier);
  clock.now = NOW;
  await verify(verifier);
  clock.now += 300;
  await verify(verifier);
  expect(endpoint.requests).toHaveLength(2);
});

test("keys are not fetched without a pause when the clock changes", async () => {
  const source = new RemoteKeys(endpoint.url, undefined, clock.read, () => {});
  onTestFinished(() => source.close());
  const set = vi.spyOn(globalThis, "setTimeout");
  const pauses = () => {
    const refreshes = set.mock.calls.filter(([, time]) => time !== limits.fetchTimeout);
    return refreshes
      .map(([, time]) => time as number)
      .filter((time) => !(time >= 1 && time < 2 ** 31));
  };
  await source.fetchNow();
  endpoint.fails();
  for (const change of [-30 * 24 * 60 * 60, 60 * 24 * 60 * 60, Number.NaN]) {
    clock.now += change;
    await expect(source.fetchNow()).rejects.toThrow("status 500");
  }
  // A timer that overflows ends at once, and the next one too.
  const { length } = endpoint.requests;
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(endpoint.requests).toHaveLength(length);
  expect(pauses()).toEqual([]);
});

test("a failing warn does not end the fetches", async () => {
  const warn = () => {
    throw new Error("no log");
  };
  const source = new RemoteKeys(endpoint.url, undefined, clock.read, warn);
  onTestFinished(() => source.close());
  endpoint.fails();
  await expect(source.fetchNow()).rejects.toThrow("no log");
  endpoint.serves(gw.keySet);
  await source.fetchNow();

  vi.spyOn(process, "emitWarning").mockReturnValue();
  const verifier = gw.verifier({ authority: undefined, jwksUrl: endpoint.url, warn });
  onTestFinished(() => verifier.close());
  endpoint.fails();
  expect(await code(verifier)).toBe("assertion-keys-unavailable");
  expect(process.emitWarning).toHaveBeenCalledOnce();
  endpoint.serves(gw.keySet);
  clock.now += MINIMUM_INTERVAL;
  await verify(verifier);
});

test("a fetch before the first request", async () => {
  const verifier = remote();
  await verifier.fetchKeys();
  await verify(verifier);
  expect(endpoint.requests).toHaveLength(1);
  endpoint.fails();
  await expect(verifier.fetchKeys()).rejects.toThrow("status 500");
  await verify(verifier);
});

test("keys are refreshed in the background until the verifier is closed", async () => {
  vi.spyOn(RemoteKeys.prototype as unknown as { refreshIn(): number }, "refreshIn").mockReturnValue(
    0.01,
  );
  const verifier = remote();
  await verifier.fetchKeys();
  await endpoint.arrived(4);
  verifier.close();
  const source = (verifier as unknown as { keys: { running?: Promise<unknown> } }).keys;
  await source.running;
  const { length } = endpoint.requests;
  await verifier.fetchKeys();
  expect(endpoint.requests).toHaveLength(length + 1);
});

interface Authority {
  root: string;
  key: Buffer;
  cert: Buffer;
}

/** Makes an authority and a server certificate for a name and 127.0.0.1. */
function privateAuthority(context: TestContext, name = "localhost"): Authority {
  const directory = temporary();
  const path = (file: string) => join(directory, file);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  try {
    openssl(
      "req",
      "-x509",
      ...key,
      "-keyout",
      path("ca.key"),
      "-out",
      path("root.pem"),
      "-days",
      "2",
      "-subj",
      "/CN=Test Root",
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") lacking(context, "openssl");
    throw error;
  }
  openssl(
    "req",
    ...key,
    "-keyout",
    path("key.pem"),
    "-out",
    path("csr.pem"),
    "-subj",
    `/CN=${name}`,
  );
  writeFileSync(
    path("ext"),
    `subjectAltName=DNS:${name},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n`,
  );
  openssl(
    "x509",
    "-req",
    "-in",
    path("csr.pem"),
    "-CA",
    path("root.pem"),
    "-CAkey",
    path("ca.key"),
    "-CAcreateserial",
    "-out",
    path("cert.pem"),
    "-days",
    "2",
    "-extfile",
    path("ext"),
  );
  return {
    root: path("root.pem"),
    key: readFileSync(path("key.pem")),
    cert: readFileSync(path("cert.pem")),
  };
}

function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), "countersign-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  return directory;
}

test("keys behind a private authority", async (context) => {
  const authority = privateAuthority(context);
  const stranger = privateAuthority(context);
  const { url } = await KeyEndpoint.start(gw.keySet, createHttps(authority));
  await verify(remote(url, authority.root));
  await verify(remote(url.replace("localhost", "127.0.0.1"), authority.root));
  await expect(remote(url).fetchKeys()).rejects.toThrow("cannot be reached");
  await expect(remote(url, stranger.root).fetchKeys()).rejects.toThrow("cannot be reached");
  vi.stubEnv("NODE_TLS_REJECT_UNAUTHORIZED", "0");
  await expect(remote(url).fetchKeys()).rejects.toThrow("cannot be reached");
  vi.unstubAllEnvs();
});

test("the certificate must have the server's name", async (context) => {
  const authority = privateAuthority(context, "gateway.example.org");
  const { url } = await KeyEndpoint.start(gw.keySet, createHttps(authority));
  await expect(remote(url, authority.root).fetchKeys()).rejects.toThrow("cannot be reached");
});

test("no root is left out without a word", (context) => {
  const { root } = privateAuthority(context);
  const text = readFileSync(root, "utf8");
  const make = () => remote("https://localhost/keys", root);
  writeFileSync(root, `\ufeff${text}${text}`);
  make();
  for (const wrong of [
    "",
    `${text} ${text}`,
    text + text.replaceAll("CERTIFICATE", "PRIVATE KEY"),
    text.replace("MII", "MIX"),
    text.replace("-----END CERTIFICATE-----", ""),
  ]) {
    writeFileSync(root, wrong);
    expect(make).toThrow("caFile");
  }
  expect(() => remote("https://localhost/keys", `${root}.absent`)).toThrow("caFile");
});

test("a file of keys is read again", async () => {
  const jwksFile = join(temporary(), "keys.json");
  writeFileSync(jwksFile, JSON.stringify(gw.keySet));
  const verifier = gw.verifier({ authority: undefined, jwksFile, warn: () => {} });
  await verify(verifier);
  gw.rotate({ keepOld: false });
  writeFileSync(jwksFile, `${JSON.stringify(gw.keySet)}\n`);
  await verifier.fetchKeys();
  await verify(verifier);
  // Unusable content does not replace the last good keys, for a day.
  for (const unusable of ["<html>", '{"keys":[]}', " ".repeat((1 << 20) + 1)]) {
    writeFileSync(jwksFile, unusable);
    await expect(verifier.fetchKeys()).rejects.toThrow("cannot be used");
  }
  await verify(verifier);
  clock.now += LAST_GOOD_SECONDS;
  expect(await code(verifier)).toBe("assertion-keys-unavailable");
  writeFileSync(jwksFile, JSON.stringify(gw.keySet));
  await verifier.fetchKeys();
  await verify(verifier);
});

test("a changed file is noticed within a second", async () => {
  const file = join(temporary(), "keys.json");
  writeFileSync(file, JSON.stringify(gw.keySet));
  const source = new FileKeys(file, clock.read, () => {});
  gw.rotate();
  writeFileSync(file, JSON.stringify(gw.keySet));
  const now = performance.now();
  vi.spyOn(performance, "now").mockReturnValue(now + 1_000);
  expect((await source.forKey()).has(gw.keyId)).toBe(true);
});

test.each([undefined, "", '{"keys":[]}'])("a file without keys: %j", (content) => {
  const jwksFile = join(temporary(), "keys.json");
  if (content !== undefined) writeFileSync(jwksFile, content);
  expect(() => gw.verifier({ jwksFile })).toThrow("jwksFile");
});
