/** The vectors that all packages share. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  AssertionVerifier,
  type AssertionVerifierOptions,
  type Caller,
  onlyAssertion,
  RequestParts,
} from "../src/index.js";
import { lacking } from "./support.js";

interface Case {
  name: string;
  rule: string;
  options: Record<string, string | number | boolean | null>;
  key_set: string;
  now: number;
  assertions: string[];
  request: { method: string; hosts: string[]; target: string; body: string | null };
  expect:
    | { code: string }
    | { sub: string; trust_domain: string | null; request_bound: boolean; claims: object };
}

interface Vectors {
  version: number;
  key_sets: Record<string, object>;
  cases: Case[];
}

const FILE = join(__dirname, "..", "..", "vectors", "vectors.json");
const vectors: Vectors = existsSync(FILE)
  ? JSON.parse(readFileSync(FILE, "utf8"))
  : { version: 1, key_sets: {}, cases: [] };

test("the vectors are there", (context) => {
  if (vectors.cases.length === 0) lacking(context, "sdk/vectors/vectors.json");
  expect(vectors.version).toBe(1);
});

for (const vector of vectors.cases) {
  test(`${vector.rule}: ${vector.name}`, async () => {
    if ("code" in vector.expect) {
      await expect(verify(vector)).rejects.toMatchObject({
        name: "AssertionRefused",
        code: vector.expect.code,
      });
      return;
    }
    const caller = await verify(vector);
    expect(caller.sub).toBe(vector.expect.sub);
    expect(caller.trustDomain ?? null).toBe(vector.expect.trust_domain);
    expect(caller.isRequestBound).toBe(vector.expect.request_bound);
    contains(caller.claims, vector.expect.claims);
  });
}

async function verify(vector: Case): Promise<Caller> {
  const { method, hosts, target, body } = vector.request;
  const options = Object.entries(vector.options).map(([name, value]) => [camelCase(name), value]);
  const verifier = new AssertionVerifier({
    ...(Object.fromEntries(options) as AssertionVerifierOptions),
    keys: vectors.key_sets[vector.key_set],
    clock: () => vector.now,
  });
  return verifier.verify(
    onlyAssertion(vector.assertions),
    new RequestParts(method, hosts, target),
    { body: body === null ? undefined : Buffer.from(body, "base64url") },
  );
}

function camelCase(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** Checks that all expected members are there, in nested objects too. */
function contains(found: unknown, expected: unknown): void {
  if (typeof expected === "object" && expected !== null && !Array.isArray(expected)) {
    for (const [name, value] of Object.entries(expected)) {
      contains((found as Record<string, unknown>)[name], value);
    }
  } else {
    expect(found).toEqual(expected);
  }
}
