import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Fault from "../../Fault.ts"
import type { Life } from "./crashLife.ts"
import { describe, type Done, type Story } from "./crashStory.ts"

/** Who sees what is done to the outside. @internal */
export interface Observer {
  readonly life: Life<unknown, unknown>
  readonly story: Story
}

/** @internal */
export const Observer = Context.Reference<Observer | undefined>("effect-resilience/testing/CrashPoints/Observer", {
  defaultValue: () => undefined
})

// What a reconcile does finds out about a step, or brings it to its end.
const isReconciling = (scope: string): boolean => scope.includes("/~reconcile")

const outcomeOf = (exit: Exit.Exit<unknown, unknown>): Done["outcome"] =>
  Exit.isSuccess(exit) ? "done" : Exit.hasInterrupts(exit) ? "interrupted" : "failed"

/** @internal */
export const mark = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  label: string,
  atMostOnce: boolean | undefined
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Observer, (observer) => {
    if (observer === undefined) return self
    const { life, story } = observer
    return Effect.gen(function*() {
      const idempotent = yield* Fault.Idempotent
      const run = Option.getOrUndefined(yield* Effect.serviceOption(Checkpoint.Run))
      const scope = run?.scope ?? ""
      const done: Done = {
        life: life.number,
        label,
        runId: run?.runId,
        scope,
        idempotencyKey: run && (yield* Effect.provideService(Checkpoint.idempotencyKey, Checkpoint.Run, run)),
        atMostOnce: atMostOnce ?? !(idempotent || isReconciling(scope)),
        outcome: "begun"
      }
      const what = () => describe(done)
      yield* life.cross("effect", "before", what)
      story.effects.push(done)
      story.tell(life.number, () => `${describe(done)} ${done.outcome}`)
      const work = self.pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            done.outcome = outcomeOf(exit)
          })
        ),
        Effect.provideService(Observer, undefined)
      )
      return yield* Effect.onExit(
        life.outside(work, false),
        (exit) => Exit.hasInterrupts(exit) ? Effect.void : life.cross("effect", "after", what)
      )
    })
  })
