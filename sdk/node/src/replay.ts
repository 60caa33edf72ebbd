/** Remembers the `jti` of accepted assertions, so that each one is accepted only once. */

import { sha256 } from "./encoding.js";
import { AssertionRefused, ConfigurationError } from "./errors.js";

/**
 * Remembers which assertions were accepted.
 *
 * A store must never forget an identifier that could still be replayed, also if the clock is set
 * back. If it cannot decide, it must refuse.
 */
export interface ReplayStore {
  /**
   * Remembers `identifier` until `expiry`, or refuses it.
   *
   * `expiry` and `now` are seconds since 1970, and `expiry` includes the skew. Throws
   * AssertionRefused: `assertion-replayed` if the identifier is remembered, `assertion-expired` if
   * it could have been forgotten, `assertion-replay-cache-full` (status 503) if the store cannot
   * decide.
   */
  admit(identifier: string, expiry: number, now: number): void | Promise<void>;
}

/**
 * A store in the memory of this process, for at most `capacity` assertions.
 *
 * Other processes do not see it. Use it only if one process serves all requests: with several
 * workers, an assertion can be used once with each.
 *
 * If it is full of assertions that could still be replayed, further ones are refused with status
 * 503. Choose at least the number of requests in 40 seconds (lifetime and skew).
 *
 * The clock may be set back. A forgotten assertion would then be valid again, so the store refuses
 * every assertion that expires no later than one that it has forgotten.
 */
export class InProcessReplayStore implements ReplayStore {
  // Hashes, so that all entries have the same size.
  private readonly seen = new Set<string>();
  private readonly byExpiry = new Map<number, string[]>();
  private forgottenUntil = 0;
  private forgotAt: number | undefined;

  constructor(private readonly capacity: number = 100_000) {
    if (!Number.isSafeInteger(capacity) || capacity < 1) {
      throw new ConfigurationError("a replay store needs a capacity of at least 1");
    }
  }

  admit(identifier: string, expiry: number, now: number): void {
    const entry = sha256(identifier);
    this.forgetExpired(now);
    if (this.seen.has(entry)) throw new AssertionRefused("assertion-replayed");
    if (expiry <= this.forgottenUntil) throw new AssertionRefused("assertion-expired");
    if (this.seen.size >= this.capacity) {
      throw new AssertionRefused("assertion-replay-cache-full");
    }
    this.seen.add(entry);
    const sameExpiry = this.byExpiry.get(expiry);
    if (sameExpiry === undefined) this.byExpiry.set(expiry, [entry]);
    else sameExpiry.push(entry);
  }

  private forgetExpired(now: number): void {
    // Once for each second of the clock. There are at most a few hundred different expiries.
    if (this.forgotAt === now) return;
    this.forgotAt = now;
    for (const [expiry, entries] of this.byExpiry) {
      if (expiry > now) continue;
      this.byExpiry.delete(expiry);
      this.forgottenUntil = Math.max(this.forgottenUntil, expiry);
      for (const entry of entries) this.seen.delete(entry);
    }
  }
}
