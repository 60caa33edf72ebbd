/** Services behind a real gateway. COUNTERSIGN_BINARY names it. */

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import { createServer as createHttp2 } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, onTestFinished, type TestContext, test } from "vitest";
import { AssertionVerifier } from "../src/index.js";
import { applications, nodeApp } from "./applications.js";
import { TARGETS } from "./http-cases.js";
import { exchange, lacking, listen, type Reply } from "./support.js";

const ISSUER = "https://gateway.example.org:9080";
const CLIENT = "spiffe://example.org/client";
const BINARY = process.env.COUNTERSIGN_BINARY;

function configuration(port: number, protocol: string): string {
  return `
[listener]
address = "127.0.0.1:0"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"

[[trust_domain]]
name = "example.org"
roots = ["certs/trust.pem"]
revocation = "off"

[assertion]
issuer = "${ISSUER}"
keys = "certs/signing"

[public]
address = "127.0.0.1:0"

[[upstream]]
name = "orders"
endpoints = ["http://127.0.0.1:${port}"]
${protocol}

[[route]]
name = "orders"
paths = ["/**"]
callers = ["*"]
upstream = "orders"
audience = "orders"
`;
}

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "countersign-"));
  if (BINARY === undefined) return;
  const names = ["--trust-domain", "example.org", "--host", "localhost", "--no-passphrase"];
  const args = ["init", directory, ...names, "--upstream", "http://127.0.0.1:9"];
  execFileSync(BINARY, args, { stdio: "pipe" });
});

afterAll(() => rmSync(directory, { recursive: true }));

interface Gateway {
  port: number;
  jwksUrl: string;
  send(target: string, method?: string, headers?: string[]): Promise<Reply>;
}

function binary(context: TestContext): string {
  return BINARY ?? lacking(context, "COUNTERSIGN_BINARY names no gateway");
}

/** Starts a gateway in front of the service at a port, until the test has finished. */
async function startGateway(command: string, service: number, protocol = ""): Promise<Gateway> {
  const path = (file: string) => join(directory, file);
  const ready = path(`${service}.json`);
  writeFileSync(path(`${service}.toml`), configuration(service, protocol));
  const args = ["serve", "--config", path(`${service}.toml`), "--ready-file", ready];
  const started = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  const output: Buffer[] = [];
  started.stderr.on("data", (part: Buffer) => output.push(part));
  onTestFinished(async () => {
    started.kill();
    if (started.exitCode === null && started.signalCode === null) await once(started, "exit");
  });
  // The file appears in one step. Nothing else tells when the gateway is ready.
  while (!existsSync(ready)) {
    if (started.exitCode !== null) throw new Error(Buffer.concat(output).toString());
    await sleep(10);
  }
  const addresses = JSON.parse(readFileSync(ready, "utf8"));
  const portOf = (address: string) => Number(address.slice(address.lastIndexOf(":") + 1));
  const port = portOf(addresses.listener);
  const tls = {
    ca: readFileSync(path("certs/trust.pem")),
    key: readFileSync(path("certs/issued/client.key")),
    cert: readFileSync(path("certs/issued/client.pem")),
    servername: "localhost",
  };
  return {
    port,
    jwksUrl: `https://localhost:${portOf(addresses.public)}/.well-known/jwks.json`,
    send: (target, method = "GET", headers = []) =>
      exchange(port, target, [], { method, headers, hosts: [`localhost:${port}`], tls }),
  };
}

/** Returns a verifier that has the gateway's keys from its files. */
function verifier(command: string): AssertionVerifier {
  const args = ["keys", "jwks", "--dir", join(directory, "certs/signing")];
  const keys = execFileSync(command, args, { encoding: "utf8" });
  return new AssertionVerifier({ issuer: ISSUER, audience: "orders", keys });
}

async function checkRequests(gateway: Gateway): Promise<void> {
  const passed: string[] = [];
  for (const target of TARGETS) {
    const reply = await gateway.send(target);
    if (reply.status === 200) {
      expect([target, reply.text]).toEqual([target, CLIENT]);
      passed.push(target);
    } else {
      // The gateway refuses some targets itself, but the service none that it forwards.
      const { code } = JSON.parse(reply.text);
      expect([target, code]).not.toEqual([target, expect.stringMatching(/^assertion-/)]);
    }
  }
  expect(passed).toEqual(
    expect.arrayContaining(["/orders/%37", "/orders/7;v=1/x", "/a+b", "/caf%C3%A9", "/orders/7?"]),
  );
  expect((await gateway.send("/orders/7", "POST")).text).toBe(CLIENT);
  const forged = ["Countersign-Assertion: a.b.c", "Countersign-Caller: x"];
  expect((await gateway.send("/orders/7", "GET", forged)).text).toBe(CLIENT);
}

for (const [name, make] of Object.entries(applications)) {
  test(`${name} behind a gateway`, async (context) => {
    const command = binary(context);
    const service = await listen(await make(verifier(command)));
    await checkRequests(await startGateway(command, service));
    expect((await exchange(service, "/orders/7")).code).toBe("assertion-missing");
  });
}

test("HTTP/2 behind a gateway", async (context) => {
  const command = binary(context);
  const service = await listen(createHttp2(nodeApp(verifier(command))));
  await checkRequests(await startGateway(command, service, 'protocol = "h2"'));
});

test("around a gateway, with an assertion that it made and its published keys", async (context) => {
  const command = binary(context);
  let handler: ReturnType<typeof nodeApp> | undefined;
  let seen: IncomingMessage | undefined;
  const service = await listen(
    createServer((request, response) => {
      seen = request;
      handler?.(request, response);
    }),
  );
  const gateway = await startGateway(command, service);
  const caFile = join(directory, "certs/trust.pem");
  const { jwksUrl } = gateway;
  const own = new AssertionVerifier({ issuer: ISSUER, audience: "orders", jwksUrl, caFile });
  onTestFinished(() => own.close());
  await own.fetchKeys();
  handler = nodeApp(own);

  const target = "/orders/7?x=1";
  expect((await gateway.send(target)).text).toBe(CLIENT);
  const token = seen?.headers["countersign-assertion"] as string;
  const hosts = [seen?.headers.host as string];
  const [header, payload = "", signature = ""] = token.split(".");
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const none = encode({ alg: "none", typ: "countersign+jwt", kid: "x" });
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString());
  const altered = encode({ ...claims, sub: "spiffe://evil" });
  const send = (sent: string, tokens: string[], more: Parameters<typeof exchange>[3] = {}) =>
    exchange(service, sent, tokens, { hosts, ...more });
  expect((await send(target, [token])).text).toBe(CLIENT);
  for (const [code, sent, ...tokens] of [
    ["assertion-missing", target],
    ["assertion-duplicate", target, token, token],
    ["assertion-malformed", target, `${token},${token}`],
    ["assertion-malformed", target, `${header}.${payload}.`],
    ["assertion-malformed", target, `${header}.${payload}`],
    ["assertion-malformed", target, `${token}=`],
    ["assertion-malformed", target, `${token}.x`],
    ["assertion-malformed", target, "x".repeat(5000)],
    ["assertion-algorithm", target, `${none}.${payload}.${signature}`],
    ["assertion-signature", target, `${header}.${altered}.${signature}`],
    ["assertion-signature", target, `${header}.${payload}.${signature.slice(0, 84)}`],
    ["assertion-path", "/orders/8?x=1", token],
    ["assertion-path", "/orders/%37?x=1", token],
    ["assertion-path", "/orders/7/?x=1", token],
    ["assertion-query", "/orders/7", token],
    ["assertion-query", "/orders/7?x=2", token],
    ["assertion-query", "/orders/7?x=%31", token],
  ] as [string, string, ...string[]][]) {
    expect([sent, tokens, (await send(sent, tokens)).code]).toEqual([sent, tokens, code]);
  }
  expect((await send(target, [token], { method: "POST" })).code).toBe("assertion-method");
  const spoofed = { hosts: ["evil.example"], headers: [`X-Forwarded-Host: ${hosts[0]}`] };
  expect((await send(target, [token], spoofed)).code).toBe("assertion-authority");
});
