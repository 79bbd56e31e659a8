/**
 * Mutation testing of the guards: changes them in thousands of small ways and counts the changes that no test of theirs
 * notices. `npm run mutation -- --mutate src/policy/Backoff.ts` takes one module; all of them take hours.
 *
 * @type {import("@stryker-mutator/api/core").PartialStrykerOptions}
 */
export default {
  mutate: ["src/policy/**/*.ts"],
  testFiles: ["test/policy/**/*.test.ts"],
  testRunner: "vitest",
  plugins: ["@stryker-mutator/vitest-runner"],
  vitest: { configFile: "test/vitest.config.ts" },
  coverageAnalysis: "perTest",
  // A message may say the same in other words, and where a module is loaded nothing is decided.
  mutator: { excludedMutations: ["StringLiteral"] },
  ignoreStatic: true,
  concurrency: 2,
  // A mutant that waits for what never comes is found by its virtual time standing still, which takes real time.
  timeoutMS: 5_000,
  // Stryker rewrites a tsconfig with TypeScript's own parser, which TypeScript 7 has no longer. Ours needs no rewriting.
  tsconfigFile: "none",
  reporters: ["progress-append-only", "clear-text", "html", "json"],
  clearTextReporter: { allowColor: false, allowEmojis: false, logTests: false, reportTests: false },
  htmlReporter: { fileName: ".stryker/report.html" },
  jsonReporter: { fileName: ".stryker/report.json" },
  tempDirName: ".stryker/tmp",
  cleanTempDir: "always",
  ignorePatterns: ["bench", "examples", "dist", ".doctest", ".support-desk", ".stryker"]
}
