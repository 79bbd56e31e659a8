import type { Example } from "../support/Example.ts"
import * as Live from "./live.ts"
import * as Virtual from "./virtual.ts"

export const example = {
  name: "document-pipeline",
  about:
    "PDF invoices, good and nasty, into a database: a killed process, a database that is down, a person who decides",
  virtual: Virtual.run,
  live: Live.run
} satisfies Example
