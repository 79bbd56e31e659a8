import type { Example } from "../support/Example.ts"
import * as Live from "./main.ts"
import * as Scripted from "./scripted.ts"

export const example = {
  name: "letta-agent",
  about: "an agent of Letta through a bad evening: lost connections, an overwritten memory, and no message sent twice",
  virtual: Scripted.run,
  live: Live.run
} satisfies Example
