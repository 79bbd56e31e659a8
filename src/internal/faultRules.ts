import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { Verdict, verdictOf } from "./verdict.ts"

const isVerdict = Schema.is(Verdict)

/** @internal */
export const carriedVerdict = (error: unknown): Verdict | undefined => {
  if (!Predicate.hasProperty(error, verdictOf)) return undefined
  const verdict = error[verdictOf]
  return isVerdict(verdict) ? verdict : undefined
}

/** @internal */
export const builtInVerdict = (_error: unknown): Verdict => ({ _tag: "Permanent" })
