/** Replay stores. */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createClient } from "redis";
import { expect, onTestFinished, type TestContext, test } from "vitest";
import { ConfigurationError, InProcessReplayStore, RequestParts } from "../src/index.js";
import { RedisReplayStore } from "../src/redis.js";
import { TestGateway } from "../src/testing.js";
import { HOST, lacking, listen, NOW, TestClock } from "./support.js";

const URL = `https://${HOST}/orders/7`;
const PARTS = new RequestParts("GET", HOST, "/orders/7");
const clock = new TestClock();
const gw = new TestGateway({ audience: "orders", clock: clock.read });

async function outcome(result: () => unknown): Promise<string> {
  try {
    await result();
    return "admitted";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

function verifier(replayStore = new InProcessReplayStore(), allowCallerBinding = false) {
  return gw.verifier({ authority: undefined, replayStore, allowCallerBinding });
}

test("an assertion is used once", async () => {
  const once = verifier();
  const token = gw.assertion("GET", URL);
  // A refused request does not use it up.
  const other = new RequestParts("GET", HOST, "/orders/8");
  expect(await outcome(() => once.verify(token, other))).toBe("assertion-path");
  const outcomes = await Promise.all(
    Array.from({ length: 16 }, () => outcome(() => once.verify(token, PARTS))),
  );
  expect(outcomes.filter((outcome) => outcome === "admitted")).toHaveLength(1);
  expect(outcomes.filter((outcome) => outcome === "assertion-replayed")).toHaveLength(15);
  await once.verify(gw.assertion("GET", URL), PARTS);
});

test("caller-bound assertions may be used again", async () => {
  const reusable = verifier(new InProcessReplayStore(), true);
  const token = gw.assertion("GET", URL, { binding: "caller" });
  await reusable.verify(token, PARTS);
  await reusable.verify(token, PARTS);
});

test("a full store refuses", async () => {
  const store = new InProcessReplayStore(2);
  store.admit("a", NOW + 10, NOW);
  store.admit("b", NOW + 20, NOW);
  expect(await outcome(() => store.admit("c", NOW + 30, NOW))).toBe("assertion-replay-cache-full");
  store.admit("c", NOW + 30, NOW + 10);
  expect(await outcome(() => store.admit("b", NOW + 20, NOW + 10))).toBe("assertion-replayed");
  for (const capacity of [0, -1, 1.5, Number.NaN]) {
    expect(() => new InProcessReplayStore(capacity)).toThrow(ConfigurationError);
  }
});

test("the clock may be set back", async () => {
  const once = verifier();
  const [used, unused] = [gw.assertion("GET", URL), gw.assertion("GET", URL)];
  await once.verify(used, PARTS);
  clock.now += 100;
  await once.verify(gw.assertion("GET", URL), PARTS);
  clock.now = NOW;
  for (const token of [used, unused]) {
    expect(await outcome(() => once.verify(token, PARTS))).toBe("assertion-expired");
  }
});

/** Starts a Redis and returns the path of its socket. */
async function redisServer(context: TestContext): Promise<string> {
  if (spawnSync("redis-server", ["--version"]).error) lacking(context, "redis-server");
  const directory = mkdtempSync(join(tmpdir(), "countersign-"));
  const path = join(directory, "redis.sock");
  const server = spawn(
    "redis-server",
    ["--port", "0", "--unixsocket", path, "--save", "", "--dir", directory],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  onTestFinished(async () => {
    server.kill();
    if (server.exitCode === null) await once(server, "exit");
    rmSync(directory, { recursive: true });
  });
  let log = "";
  for await (const part of server.stdout.iterator({ destroyOnReturn: false })) {
    log += part;
    if (log.includes("eady to accept connections")) break;
  }
  server.stdout.resume();
  return path;
}

test("Redis admits once", async (context) => {
  const path = await redisServer(context);
  const nodeRedis = createClient({ socket: { path, tls: false } });
  await nodeRedis.connect();
  const ioRedis = new Redis({ path });
  onTestFinished(async () => {
    nodeRedis.destroy();
    ioRedis.disconnect();
  });
  const now = Number((await ioRedis.time())[0]);
  const [first, second] = [new RedisReplayStore(nodeRedis), new RedisReplayStore(ioRedis)];
  await first.admit("a", now + 40);
  for (const store of [first, second]) {
    expect(await outcome(() => store.admit("a", now + 40))).toBe("assertion-replayed");
  }
  await second.admit("b", now + 40);
  expect(await outcome(() => first.admit("b", now + 40))).toBe("assertion-replayed");
  const outcomes = await Promise.all(
    Array.from({ length: 16 }, (_, index) =>
      outcome(() => (index % 2 ? first : second).admit("c", now + 40)),
    ),
  );
  expect(outcomes.filter((outcome) => outcome === "admitted")).toHaveLength(1);
  // What had expired by Redis' clock may be forgotten.
  expect(await outcome(() => first.admit("d", now))).toBe("assertion-expired");
  // Redis' clock was set back: by the highest time seen, this one may be forgotten.
  await ioRedis.set("{countersign}:jti:clock", now + 100);
  expect(await outcome(() => first.admit("e", now + 100))).toBe("assertion-expired");
  await first.admit("e", now + 140);
  for (const key of await ioRedis.keys("*")) {
    const ttl = await ioRedis.ttl(key);
    expect(key.endsWith("clock") ? ttl : ttl > 0 && ttl <= 140).toBe(
      key.endsWith("clock") ? -1 : true,
    );
  }
  // A client that repeats a command does not take it for a replay.
  const repeating = {
    status: "ready",
    eval: async (...command: Parameters<Redis["eval"]>) => {
      await ioRedis.eval(...command);
      return ioRedis.eval(...command);
    },
  };
  await new RedisReplayStore(repeating as never).admit("f", now + 140);
});

test("without Redis assertions are refused", async () => {
  const silent = createServer(() => {});
  const port = await listen(silent);
  const ioRedis = new Redis({ port, host: "127.0.0.1" });
  ioRedis.on("error", () => {});
  onTestFinished(() => ioRedis.disconnect());
  const store = new RedisReplayStore(ioRedis, { timeout: 50 });
  const waiting = gw.verifier({ authority: undefined, replayStore: store });
  const refusal = await waiting.verify(gw.assertion("GET", URL), PARTS).catch((error) => error);
  expect([refusal.code, refusal.status]).toEqual(["assertion-replay-cache-full", 503]);

  const closed = createClient({ url: "redis://127.0.0.1:1" });
  const broken = new RedisReplayStore(closed);
  expect(await outcome(() => broken.admit("a", NOW))).toBe("assertion-replay-cache-full");
  const strange = { status: "ready", eval: async () => "OK" };
  const unknown = new RedisReplayStore(strange);
  expect(await outcome(() => unknown.admit("a", NOW))).toBe("assertion-replay-cache-full");
  expect(() => new RedisReplayStore({} as never)).toThrow(ConfigurationError);
  expect(() => new RedisReplayStore(strange, { timeout: 0 })).toThrow(ConfigurationError);
});
