/** What the tests share: a clock, raw HTTP, and servers that the tests control. */

import type { TestContext } from "vitest";

export const NOW = 1_770_000_000;
export const HOST = "orders.example.org";
export const CALLER = "spiffe://example.org/ns/shop/sa/checkout";

/** A clock that stands still until it is set. */
export class TestClock {
  constructor(public now: number = NOW) {}

  readonly read = (): number => this.now;
}

/** Skips the test, or fails where everything is required. */
export function lacking(context: TestContext, what: string): never {
  if (process.env.COUNTERSIGN_REQUIRE_TOOLS === "1") {
    throw new Error(`required, but missing: ${what}`);
  }
  return context.skip(what);
}
