import * as path from "node:path"
import { defineConfig } from "vitest/config"

export default defineConfig({
  root: path.resolve(import.meta.dirname, ".."),
  ssr: { resolve: { conditions: ["effect-resilience-source", "module", "node", "development|production"] } },
  // Twice as many workers as cores: who starts processes or asks a server mostly waits.
  test: { include: ["test/**/*.test.ts"], testTimeout: 30_000, isolate: false, maxWorkers: "200%" }
})
