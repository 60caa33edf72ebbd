// Writes the entry points for ES modules. They re-export the CommonJS modules, so that a process
// has one copy of each class and of the callers, however its modules load the package.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { exports } = JSON.parse(readFileSync("package.json", "utf8"));
for (const conditions of Object.values(exports)) {
  if (typeof conditions === "string") continue;
  const source = conditions.require.default.replace("./dist/", "./");
  const names = Object.keys(require(conditions.require.default)).sort();
  writeFileSync(conditions.import.default, `export { ${names.join(", ")} } from "${source}";\n`);
  writeFileSync(conditions.import.types, `export * from "${source}";\n`);
}
