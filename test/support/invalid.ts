import { assert } from "@effect/vitest"
import { Cause, Exit } from "effect"
import { Fault } from "effect-resilience"

/** Whether an effect died of an option that cannot work. */
export const invalid = (option: string) => (exit: Exit.Exit<unknown, unknown>) => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.instanceOf(error, Fault.InvalidConfig)
  assert.strictEqual(error.option, option)
}
