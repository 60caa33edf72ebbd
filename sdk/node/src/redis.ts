/**
 * A replay store in Redis, shared by all processes of a service.
 *
 * If Redis does not respond in time, assertions are refused with status 503 and the code
 * `assertion-replay-cache-full`: accepting them would allow every replay.
 */

import { randomBytes } from "node:crypto";
import { sha256 } from "./encoding.js";
import { AssertionRefused, ConfigurationError } from "./errors.js";
import type { ReplayStore } from "./replay.js";

/** What is needed of a client of the package `redis`. */
export interface NodeRedisClient {
  eval(script: string, options: { keys: string[]; arguments: string[] }): Promise<unknown>;
}

/** What is needed of a client of the package `ioredis`. */
export interface IoRedisClient {
  readonly status: string;
  eval(script: string, numberOfKeys: number, ...keysAndArguments: string[]): Promise<unknown>;
}

export interface RedisReplayStoreOptions {
  /** Of all keys. The part in braces keeps them in one slot of a cluster. */
  readonly prefix?: string;
  /** How many milliseconds a request waits for Redis. 1000 by default. */
  readonly timeout?: number;
}

// Redis' own clock decides when an entry is forgotten, and it may be set back. The highest time
// seen is kept, and assertions that had expired by then are refused: their entries may be gone. An
// entry lives until its expiry, and no longer, so that the memory is bounded. Its value is random
// for each call: a client that repeats a command after a lost answer must not take it for a replay.
const ADMIT = `
local now = tonumber(redis.call('TIME')[1])
local seen = tonumber(redis.call('GET', KEYS[2]) or '0')
if now > seen then redis.call('SET', KEYS[2], now) else now = seen end
local left = tonumber(ARGV[1]) - now
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[2] then return 'admitted' end
if holder then return 'replayed' end
if left <= 0 then return 'expired' end
redis.call('SET', KEYS[1], ARGV[2], 'EX', left)
return 'admitted'
`;

/**
 * Accepts each assertion once in all processes that share a Redis.
 *
 * Takes a connected client of the package `redis` or `ioredis`, which the service closes itself.
 * Redis must not evict keys (`maxmemory-policy noeviction`). Its clock must agree with the
 * gateway's. If it was ahead by mistake, delete the key `PREFIXclock`.
 */
export class RedisReplayStore implements ReplayStore {
  private readonly prefix: string;
  private readonly timeout: number;

  constructor(
    private readonly client: NodeRedisClient | IoRedisClient,
    options: RedisReplayStoreOptions = {},
  ) {
    this.prefix = options.prefix ?? "{countersign}:jti:";
    this.timeout = options.timeout ?? 1_000;
    if (typeof client?.eval !== "function") {
      throw new ConfigurationError("the client must be one of the packages redis and ioredis");
    }
    if (!(this.timeout > 0)) throw new ConfigurationError("the timeout must be positive");
  }

  async admit(identifier: string, expiry: number): Promise<void> {
    let result: unknown;
    try {
      result = await this.inTime(this.evaluate(identifier, expiry));
    } catch {
      throw unavailable();
    }
    if (result === "replayed") throw new AssertionRefused("assertion-replayed");
    if (result === "expired") throw new AssertionRefused("assertion-expired");
    if (result !== "admitted") throw unavailable();
  }

  private async evaluate(identifier: string, expiry: number): Promise<unknown> {
    const keys = [this.prefix + sha256(identifier), `${this.prefix}clock`];
    const values = [String(expiry), randomBytes(16).toString("hex")];
    const result = isIoRedis(this.client)
      ? await this.client.eval(ADMIT, keys.length, ...keys, ...values)
      : await this.client.eval(ADMIT, { keys, arguments: values });
    return result instanceof Uint8Array ? Buffer.from(result).toString("latin1") : result;
  }

  /** Clients keep commands while they reconnect, but requests must not wait for that. */
  private async inTime(result: Promise<unknown>): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined;
    const tooLate = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(unavailable()), this.timeout);
    });
    try {
      return await Promise.race([result, tooLate]);
    } finally {
      clearTimeout(timer);
    }
  }
}

function isIoRedis(client: NodeRedisClient | IoRedisClient): client is IoRedisClient {
  return "status" in client && typeof client.status === "string";
}

function unavailable(): AssertionRefused {
  return new AssertionRefused(
    "assertion-replay-cache-full",
    "the store of used assertions cannot be reached",
  );
}
