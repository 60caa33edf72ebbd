import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: {
    alias: [
      { find: /^@countersign\/verify$/, replacement: `${import.meta.dirname}/src/index.ts` },
      { find: /^@countersign\/verify\/(\w+)$/, replacement: `${import.meta.dirname}/src/$1.ts` },
    ],
  },
  test: { include: ["tests/**/*.test.ts"], testTimeout: 20_000 },
});
