/**
 * The sources of the gateway's keys: a fixed set, a file, or a URL with its cache.
 *
 * The cache of a URL follows the Rust package. The address is fixed, and a token cannot change it.
 * A flood of unknown key identifiers causes at most one fetch per MINIMUM_INTERVAL. Requests that
 * need keys while a fetch runs wait for its outcome and share it, also if it failed: a server that
 * does not respond costs each request the time of at most one fetch.
 */

import { readFileSync, statSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { sha256 } from "./encoding.js";
import { ConfigurationError, KeysUnavailable } from "./errors.js";
import { KeyServer } from "./fetch.js";
import { KeySet, KeySetError, MAX_KEY_SET_BYTES } from "./key-set.js";

/** Minimum number of seconds between the end of a fetch and the start of the next one. */
export const MINIMUM_INTERVAL = 5;

/** The same minimum while there are no keys at all. */
export const MINIMUM_INTERVAL_WITHOUT_KEYS = 1;

/** How many seconds the last good keys may be used after they were last confirmed. */
export const LAST_GOOD_SECONDS = 24 * 60 * 60;

/** If a fetch did not find a key identifier, it causes no fetch for this many seconds. */
export const UNKNOWN_KEY_SECONDS = 30;

/** Maximum number of unknown key identifiers that are remembered. */
export const MAX_UNKNOWN_KEYS = 256;

/** Maximum number of calls that wait for a fetch that another call started. */
export const MAX_WAITING = 1024;

/** How often the file of a key set is looked at, in milliseconds. */
export const FILE_INTERVAL = 1_000;

/** Returns the seconds since 1970. */
export type Clock = () => number;

/** Takes a message for operators. It never contains a token. */
export type Warn = (message: string) => void;

/** Where a verifier finds the gateway's keys. */
export interface KeySource {
  /** Returns the keys for a token that names `keyId`. Throws KeysUnavailable without keys. */
  forKey(keyId: string): Promise<KeySet>;
  /** Fetches the keys now. Throws KeysUnavailable if that fails. */
  fetchNow(): Promise<void>;
  /** Ends what runs in the background. */
  close(): void;
}

/** A key set that never changes. */
export class FixedKeys implements KeySource {
  constructor(private readonly keys: KeySet) {
    if (keys.size === 0) throw new ConfigurationError("the key set has no usable key");
  }

  async forKey(): Promise<KeySet> {
    return this.keys;
  }

  async fetchNow(): Promise<void> {}

  close(): void {}
}

/**
 * A key set in a file, which is read again when it changes.
 *
 * If the new content cannot be used, the last good keys are used for at most 24 hours.
 */
export class FileKeys implements KeySource {
  private keys: KeySet;
  private fileStamp: string;
  private confirmedAt: number;
  private lookedAt: number;
  private running: Promise<boolean> | undefined;

  constructor(
    private readonly path: string,
    private readonly clock: Clock,
    private readonly warn: Warn,
  ) {
    try {
      // The stamp is older than the content, so that a change in between is noticed.
      this.fileStamp = stampOf(statSync(path, { bigint: true }));
      this.keys = usableKeys(readFileSync(path));
    } catch (error) {
      throw new ConfigurationError(`jwksFile: ${problemOf(error)}`);
    }
    this.confirmedAt = clock();
    this.lookedAt = performance.now();
  }

  async forKey(): Promise<KeySet> {
    if (performance.now() - this.lookedAt >= FILE_INTERVAL) await this.refresh();
    // If the clock was set back, the age counts from the new time.
    const now = this.clock();
    this.confirmedAt = Math.min(this.confirmedAt, now);
    if (now >= this.confirmedAt + LAST_GOOD_SECONDS) throw unusableFile();
    return this.keys;
  }

  async fetchNow(): Promise<void> {
    if (!(await this.refresh())) throw unusableFile();
  }

  close(): void {}

  private refresh(): Promise<boolean> {
    this.running ??= this.refreshOnce().finally(() => {
      this.running = undefined;
      this.lookedAt = performance.now();
    });
    return this.running;
  }

  private async refreshOnce(): Promise<boolean> {
    try {
      const stamp = stampOf(await stat(this.path, { bigint: true }));
      if (stamp !== this.fileStamp) {
        this.keys = usableKeys(await readFile(this.path));
        this.fileStamp = stamp;
      }
    } catch (error) {
      this.warn(`the file of keys cannot be used: ${problemOf(error)}`);
      return false;
    }
    this.confirmedAt = this.clock();
    return true;
  }
}

function unusableFile(): KeysUnavailable {
  return new KeysUnavailable("the file of keys cannot be used");
}

function stampOf(found: { mtimeNs: bigint; size: bigint; ino: bigint }): string {
  if (found.size > MAX_KEY_SET_BYTES) throw new KeySetError("longer than 1 MiB");
  return `${found.mtimeNs} ${found.size} ${found.ino}`;
}

function usableKeys(text: Buffer): KeySet {
  const keys = KeySet.parse(text);
  if (keys.size === 0) throw new KeySetError("the key set has no usable key");
  return keys;
}

function problemOf(error: unknown): string {
  if (error instanceof KeySetError) return error.message;
  return `it cannot be read: ${(error as NodeJS.ErrnoException).code ?? "unknown error"}`;
}

interface CachedKeys {
  readonly keys: KeySet;
  readonly entityTag: string | undefined;
  confirmedAt: number;
  freshUntil: number;
}

/** A fetch that has not ended. Its outcome is the problem, or undefined if it succeeded. */
type Fetch = Promise<string | undefined>;

/** The keys at one address. */
export class RemoteKeys implements KeySource {
  private readonly server: KeyServer;
  private cached: CachedKeys | undefined;
  private running: Fetch | undefined;
  private lastProblem: string | undefined;
  private lastAttempt: number | undefined;
  private waiting = 0;
  // Hashes of identifiers that were not found, and the time until which they are remembered.
  private readonly unknown = new Map<string, number>();
  private refresher: NodeJS.Timeout | undefined;
  private isClosed = false;

  constructor(
    url: string,
    caFile: string | undefined,
    private readonly clock: Clock,
    private readonly warn: Warn,
  ) {
    this.server = new KeyServer(url, caFile);
  }

  async forKey(keyId: string): Promise<KeySet> {
    const now = this.clock();
    this.followClock(now);
    const keys = this.settled(keyId, now);
    if (keys !== undefined) return keys;
    const isNew = this.running === undefined;
    if (isNew && !this.mayFetch(now)) return this.keysFor(keyId, false);
    const problem = await this.joinOrBegin();
    return this.keysFor(keyId, isNew && problem === undefined);
  }

  /** If a fetch runs already, its outcome is shared. */
  async fetchNow(): Promise<void> {
    const problem = await this.joinOrBegin();
    if (problem !== undefined) throw new KeysUnavailable(problem);
  }

  /** Fetches on demand stay possible. */
  close(): void {
    this.isClosed = true;
    clearTimeout(this.refresher);
  }

  /** Returns the keys if no fetch is needed for `keyId`. */
  private settled(keyId: string, now: number): KeySet | undefined {
    const cached = this.usable(now);
    if (cached === undefined) return undefined;
    const isFresh = now < cached.freshUntil;
    const isSettled = cached.keys.has(keyId)
      ? // No call waits for another call's fetch while the old keys may be used, because the
        // server may be slow.
        isFresh || this.running !== undefined
      : isFresh && this.isKnownUnknown(keyId, now);
    return isSettled ? cached.keys : undefined;
  }

  private mayFetch(now: number): boolean {
    const interval =
      this.usable(now) === undefined ? MINIMUM_INTERVAL_WITHOUT_KEYS : MINIMUM_INTERVAL;
    // If the clock was set to an earlier time, fetching must not stop.
    return this.lastAttempt === undefined || Math.abs(now - this.lastAttempt) >= interval;
  }

  private usable(now: number): CachedKeys | undefined {
    const cached = this.cached;
    if (cached === undefined || now >= cached.confirmedAt + LAST_GOOD_SECONDS) return undefined;
    return cached;
  }

  /**
   * If the clock was set back, counts the age of the keys from the new time. Otherwise keys that
   * were fetched while the clock was ahead would stay fresh until it reaches that time again.
   */
  private followClock(now: number): void {
    const cached = this.cached;
    if (cached !== undefined && now < cached.confirmedAt) {
      cached.freshUntil += now - cached.confirmedAt;
      cached.confirmedAt = now;
    }
  }

  /**
   * Returns the keys to a call that fetches no more. `fetched`: they were fetched after the call
   * began. Only then it is known that an unknown key is not published.
   */
  private keysFor(keyId: string, fetched: boolean): KeySet {
    const now = this.clock();
    const cached = this.usable(now);
    if (cached === undefined) throw this.unavailable();
    if (!cached.keys.has(keyId)) {
      // The key may be newer than the cached keys, so that the result is unknown.
      if (now >= cached.freshUntil) throw this.unavailable();
      if (fetched) this.rememberUnknown(keyId, now);
    }
    return cached.keys;
  }

  private unavailable(): KeysUnavailable {
    return new KeysUnavailable(this.lastProblem ?? "nothing was fetched recently");
  }

  private isKnownUnknown(keyId: string, now: number): boolean {
    const until = this.unknown.get(sha256(keyId));
    return until !== undefined && isRemembered(until, now);
  }

  private rememberUnknown(keyId: string, now: number): void {
    for (const [key, until] of this.unknown) {
      if (!isRemembered(until, now)) this.unknown.delete(key);
    }
    // If the table is full, the minimum interval still limits the fetches.
    if (this.unknown.size < MAX_UNKNOWN_KEYS) {
      this.unknown.set(sha256(keyId), now + UNKNOWN_KEY_SECONDS);
    }
  }

  /** Waits for the running fetch, or starts one. A fetch ends within its own time limit. */
  private async joinOrBegin(): Fetch {
    if (this.running === undefined) {
      this.lastAttempt = this.clock();
      // Cleared whatever happens: otherwise all later calls would share one failure.
      this.running = this.fetchOnce().finally(() => {
        this.running = undefined;
      });
      return this.running;
    }
    if (this.waiting >= MAX_WAITING) {
      throw new KeysUnavailable("too many calls wait for the key server already");
    }
    this.waiting += 1;
    try {
      return await this.running;
    } finally {
      this.waiting -= 1;
    }
  }

  private async fetchOnce(): Fetch {
    let problem: string | undefined;
    try {
      const response = await this.server.get(this.cached?.entityTag);
      const now = this.clock();
      const freshUntil = now + response.freshFor;
      if (response.body !== undefined) {
        const keys = KeySet.parse(response.body);
        this.unknown.clear();
        this.cached = { keys, entityTag: response.entityTag, confirmedAt: now, freshUntil };
      } else if (this.cached !== undefined) {
        this.cached.confirmedAt = now;
        this.cached.freshUntil = freshUntil;
      }
    } catch (error) {
      problem = fetchProblem(error);
      this.warn(`cannot fetch the gateway's keys from ${this.server.url}: ${problem}`);
    }
    // The interval begins when the fetch ends. Otherwise the next call could fetch again at once
    // after a slow failure.
    this.lastAttempt = this.clock();
    this.lastProblem = problem;
    this.keepFresh();
    return problem;
  }

  /** Refreshes in the background, so that requests need not wait for stale keys. */
  private keepFresh(): void {
    if (this.isClosed) return;
    clearTimeout(this.refresher);
    // A verifier that is no longer used is collected, and its refresh ends.
    const source = new WeakRef(this);
    this.refresher = setTimeout(() => {
      source.deref()?.fetchNow().catch(ignore);
    }, this.refreshIn() * 1000);
    // The process may end meanwhile.
    this.refresher.unref();
  }

  /** Returns the number of seconds until the keys should be fetched again. */
  private refreshIn(): number {
    const now = this.clock();
    this.followClock(now);
    const cached = this.usable(now);
    const left = cached === undefined ? 0 : cached.freshUntil - now;
    // Early enough for a slow server, and not at the same time in all processes.
    const wait = left * (0.7 + 0.2 * Math.random());
    // A timer of more than 24 days, or of no number, would end at once.
    return wait > 2 * MINIMUM_INTERVAL ? Math.min(wait, LAST_GOOD_SECONDS) : 2 * MINIMUM_INTERVAL;
  }
}

function fetchProblem(error: unknown): string {
  if (error instanceof KeysUnavailable) return error.message;
  if (error instanceof KeySetError) return `the answer is not a key set: ${error.message}`;
  return "the key server cannot be reached";
}

function isRemembered(until: number, now: number): boolean {
  // A time that is too far ahead was set before the clock was set to an earlier time.
  return now < until && until <= now + UNKNOWN_KEY_SECONDS;
}

function ignore(): void {}
