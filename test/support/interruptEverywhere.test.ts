import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, Ref, Semaphore } from "effect"
import { cancelSources, everyCancelSource, interruptEverywhere, type Moment } from "./interruptEverywhere.ts"

type Guard = (permits: Ref.Ref<number>) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

const take = (permits: Ref.Ref<number>) => Ref.update(permits, (n) => n - 1)
const give = (permits: Ref.Ref<number>) => Ref.update(permits, (n) => n + 1)

const right: Guard = (permits) => (self) => Effect.acquireUseRelease(take(permits), () => self, () => give(permits))

/** Takes the permit before its finalizer is there. */
const leaking: Guard = (permits) => (self) => Effect.andThen(take(permits), Effect.ensuring(self, give(permits)))

const work = Effect.andThen(Effect.yieldNow, Effect.sleep("1 second"))

const guarded = (guard: Guard) =>
  Effect.gen(function*() {
    const permits = yield* Ref.make(1)
    return {
      effect: work.pipe(guard(permits)),
      check: () => Effect.map(Ref.get(permits), (free) => assert.strictEqual(free, 1))
    }
  })

const messageOf = (exit: Exit.Exit<unknown, unknown>): string => Exit.isFailure(exit) ? String(exit.cause) : ""

const moments: ReadonlyArray<Moment> = ["during", "before", "yield"]

describe("interruptEverywhere", () => {
  it.effect("passes a guard that gives its permit back wherever it is interrupted", () =>
    Effect.gen(function*() {
      const runs = yield* interruptEverywhere({ arrange: guarded(right) })
      assert.isAbove(runs, 30)
    }))

  for (const moment of ["during", "before"] as const) {
    it.effect(`finds a permit that is taken before its finalizer is there (${moment})`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(interruptEverywhere({ arrange: guarded(leaking), moments: [moment] }))
        const message = messageOf(exit)
        assert.match(
          message,
          new RegExp(`interrupted at \\{ moment: "${moment}", step: \\d+ \\}: expected \\+0 to equal 1`)
        )
        const step = Number(/step: (\d+)/.exec(message)?.[1])
        const again = yield* Effect.exit(interruptEverywhere({ arrange: guarded(leaking), only: { moment, step } }))
        assert.strictEqual(messageOf(again).split("\n")[0], message.split("\n")[0])
      }))
  }

  it.effect("finds a permit that is taken in one task of the scheduler and secured in the next", () =>
    Effect.gen(function*() {
      const late: Guard = (permits) => (self) =>
        Effect.andThen(take(permits), Effect.andThen(Effect.yieldNow, Effect.ensuring(self, give(permits))))
      const exit = yield* Effect.exit(interruptEverywhere({ arrange: guarded(late), moments: ["yield"] }))
      assert.include(messageOf(exit), "moment: \"yield\"")
    }))

  for (const moment of moments) {
    it.effect(`finds a permit granted to a waiter that is interrupted before it resumes (${moment})`, () =>
      Effect.gen(function*() {
        const waiter = (passesOn: boolean) =>
          interruptEverywhere({
            moments: [moment],
            arrange: Effect.sync(() => {
              const granted = Latch.makeUnsafe()
              let waiting = false
              let taken = 0
              const leave = Effect.sync(() => {
                if (waiting) waiting = false
                else if (passesOn) taken--
              })
              const effect = Effect.uninterruptibleMask((restore) =>
                Effect.gen(function*() {
                  waiting = true
                  yield* restore(granted.await).pipe(Effect.onInterrupt(() => leave))
                  taken--
                })
              )
              const grant = Effect.suspend(() => {
                if (!waiting) return Effect.void
                waiting = false
                taken++
                return granted.open
              })
              return {
                effect,
                drive: Effect.andThen(Effect.yieldNow, Effect.andThen(grant, Effect.yieldNow)),
                check: () => Effect.sync(() => assert.strictEqual(taken, 0))
              }
            })
          })
        assert.include(messageOf(yield* Effect.exit(waiter(false))), "expected 1 to equal +0")
        yield* waiter(true)
      }))
  }

  it.effect("interrupts what child fibers do, at their steps", () =>
    Effect.gen(function*() {
      const child: Guard = (permits) => (self) => Effect.flatMap(Effect.forkChild(leaking(permits)(self)), Fiber.join)
      const exit = yield* Effect.exit(interruptEverywhere({ arrange: guarded(child), moments: ["before"] }))
      assert.include(messageOf(exit), "expected +0 to equal 1")
    }))

  it.effect("finds a fiber that outlives the call", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(interruptEverywhere({
        arrange: Effect.succeed({
          effect: Effect.andThen(Effect.forkDetach(Effect.never), work),
          check: () => Effect.void
        })
      }))
      assert.include(messageOf(exit), "1 fibers outlive the scope")
    }))

  it.effect("finds a timer that outlives the call", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(interruptEverywhere({
        arrange: Effect.map(Effect.scope, (scope) => ({
          effect: Effect.andThen(Effect.forkIn(Effect.sleep("1 hour"), scope), work),
          check: () => Effect.void
        }))
      }))
      assert.include(messageOf(exit), "1 sleeps are left over from the call")
    }))

  it.effect("fails when there are too few steps to show anything, or no end of them", () =>
    Effect.gen(function*() {
      const few = Effect.succeed({ effect: Effect.void, check: () => Effect.void })
      assert.include(messageOf(yield* Effect.exit(interruptEverywhere({ arrange: few }))), "which shows nothing")
      const endless = Effect.succeed({ effect: Effect.never, check: () => Effect.void })
      const exit = yield* Effect.exit(interruptEverywhere({ arrange: endless, maxSteps: 50 }))
      assert.include(messageOf(exit), "has not ended by itself after 50 steps")
    }))

  it.effect("tells the run that nothing interrupted by its step", () =>
    Effect.gen(function*() {
      const seen: Array<readonly [step: number, succeeded: boolean]> = []
      yield* interruptEverywhere({
        moments: ["during"],
        arrange: Effect.succeed({
          effect: work,
          check: (exit, step) => Effect.sync(() => seen.push([step, Exit.isSuccess(exit)]))
        })
      })
      assert.deepStrictEqual(seen.filter(([, succeeded]) => succeeded).map(([step]) => step), [0])
    }))
})

describe("everyCancelSource", () => {
  it.effect("cancels in every way, and the check sees how the effect itself ended", () =>
    Effect.gen(function*() {
      const names: Array<string> = []
      yield* everyCancelSource({
        arrange: Effect.gen(function*() {
          const permits = yield* Ref.make(1)
          return {
            effect: work.pipe(right(permits)),
            check: (exit, source) =>
              Effect.gen(function*() {
                names.push(source)
                assert.isTrue(Exit.hasInterrupts(exit))
                assert.strictEqual(yield* Ref.get(permits), 1)
              })
          }
        })
      })
      assert.deepStrictEqual(names, cancelSources.map(({ name }) => name))
    }))

  it.effect("names the canceller after which something leaked", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(everyCancelSource({
        arrange: Effect.map(Semaphore.make(1), (semaphore) => ({
          effect: Effect.andThen(semaphore.take(1), Effect.sleep("1 second")),
          check: () => Effect.map(semaphore.takeIfAvailable(1), (taken) => assert.isTrue(taken))
        }))
      }))
      assert.include(messageOf(exit), "cancelled by its caller: expected false to be true")
    }))

  it.effect("fails when the effect ended before it was cancelled", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(everyCancelSource({
        arrange: Effect.succeed({ effect: Effect.void, check: () => Effect.void })
      }))
      assert.include(messageOf(exit), "was not interrupted")
    }))
})
