// Verifies assertions with stock `jose`.
//
// Reads a list of cases from standard input. Ends with 0 when each token is
// accepted or refused as its case says, with 1 when not, with 77 without `jose`,
// which is looked for in $COUNTERSIGN_NODE_MODULES.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const modules = process.env.COUNTERSIGN_NODE_MODULES ?? "node_modules";
let jose;
try {
  const require = createRequire(join(resolve(modules), "..", "here.js"));
  jose = await import(pathToFileURL(require.resolve("jose")));
} catch (error) {
  console.error(error.message);
  process.exit(77);
}

let failed = false;
for (const test of JSON.parse(readFileSync(0, "utf8"))) {
  let accepted = false;
  let outcome;
  try {
    const { payload } = await jose.jwtVerify(
      test.token,
      jose.createLocalJWKSet(test.jwks),
      {
        algorithms: [test.algorithm],
        issuer: test.issuer,
        audience: test.audience,
        typ: "countersign+jwt",
        requiredClaims: ["sub", "iat", "exp"],
      },
    );
    accepted = payload.sub === test.subject && payload.htu === test.htu;
    outcome = "accepted";
  } catch (error) {
    outcome = `refused: ${error.code}`;
  }
  console.log(`${test.name}: ${outcome}`);
  failed ||= accepted !== test.accepted;
}
process.exit(failed ? 1 : 0);
