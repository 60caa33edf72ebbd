/** The built package, loaded by both kinds of modules. */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { lacking, PACKAGE } from "./support.js";

const { exports } = JSON.parse(readFileSync(join(PACKAGE, "package.json"), "utf8"));
const entries = Object.keys(exports).filter((entry) => entry !== "./package.json");

const CHECK = `
  const gw = new testing.TestGateway({ audience: "orders" });
  const request = new main.RequestParts("GET", gw.authority, "/orders/7");
  const token = gw.assertion("GET", "/orders/7");
  gw.verifier().verify(token, request).then(async (caller) => {
    const other = await import("@countersign/verify");
    const isOne = other.Caller === main.Caller && caller instanceof main.Caller;
    console.log(caller.sub, isOne, "TestGateway" in main);
  });
`;

function run(code: string, ...options: string[]): string {
  return execFileSync(process.execPath, [...options, "--eval", code], {
    cwd: PACKAGE,
    encoding: "utf8",
  }).trim();
}

test("ES modules and CommonJS modules", (context) => {
  if (!existsSync(join(PACKAGE, "dist", "index.mjs"))) lacking(context, "the build in dist");
  const imports = entries.map((entry) => {
    const name = entry.slice(2) || "main";
    return [name, entry.replace(".", "@countersign/verify")] as const;
  });
  const esm = imports.map(([name, from]) => `import * as ${name} from "${from}";`).join("\n");
  const cjs = imports.map(([name, from]) => `const ${name} = require("${from}");`).join("\n");
  const expected = "spiffe://test.example/caller true false";
  expect(run(esm + CHECK, "--input-type=module")).toBe(expected);
  expect(run(cjs + CHECK, "--input-type=commonjs")).toBe(expected);
});

test("all files of the entry points exist", (context) => {
  if (!existsSync(join(PACKAGE, "dist", "index.mjs"))) lacking(context, "the build in dist");
  for (const entry of entries) {
    for (const condition of Object.values<Record<string, string>>(exports[entry])) {
      for (const file of Object.values(condition))
        expect(existsSync(join(PACKAGE, file))).toBe(true);
    }
  }
});
