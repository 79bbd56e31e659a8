// Runs the tests of the guards, of what is durable and of agents with the long runs of their properties: thousands of
// random stories each.
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const tests = process.argv.slice(2)
const vitest = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url))
const { status } = spawnSync(
  process.execPath,
  [
    vitest,
    "run",
    "--config",
    "test/vitest.config.ts",
    "--testTimeout=1800000",
    ...(tests.length === 0 ? ["test/policy", "test/durable", "test/agent"] : tests)
  ],
  { stdio: "inherit", env: { ...process.env, EFFECT_RESILIENCE_FULL: "1" } }
)
process.exitCode = status ?? 1
