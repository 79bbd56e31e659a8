import { afterAll, assert, it } from "@effect/vitest"
import type { Effect, Scope } from "effect"
import { CrashPoints } from "effect-resilience/testing"
import type { TestContext, TestOptions } from "vitest"

/**
 * `it`, whose effects are run once more with every run resumed after each step that it records. `except` names the tests
 * that cannot pass then, and says why.
 */
export const replaying = (except: Readonly<Record<string, string>> = {}) => {
  const unknown = new Set(Object.keys(except))
  afterAll(() => assert.deepStrictEqual(Array.from(unknown), [], "exceptions that are no tests"))
  const effect = <A, E>(
    name: string,
    self: (context: TestContext) => Effect.Effect<A, E, Scope.Scope>,
    options?: number | TestOptions
  ): void => {
    it.effect(name, self, options)
    unknown.delete(name)
    if (name in except) return
    it.effect(
      `${name}, also when resumed after each step`,
      (context) => CrashPoints.alwaysReplay(self(context)),
      options
    )
  }
  const plain = (name: string, self: () => void): void => it(name, self)
  return Object.assign(plain, { effect: Object.assign(effect, { prop: it.effect.prop }), live: it.live })
}
