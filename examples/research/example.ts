import type { Example } from "../support/Example.ts"
import * as Live from "./live.ts"
import * as Virtual from "./virtual.ts"

export const example = {
  name: "research",
  about:
    "an agent with sources that are down, rate limited, slow or full of garbage; its report says what it lacks and why",
  virtual: Virtual.run,
  live: Live.run
} satisfies Example
