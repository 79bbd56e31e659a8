import { defineConfig, mergeConfig } from "vitest/config"
import base from "../vitest.config.ts"

const shared = { ...base, test: { ...base.test, include: [] } }

export default mergeConfig(shared, defineConfig({ test: { include: [".doctest/**/*.test.ts"], exclude: [] } }))
