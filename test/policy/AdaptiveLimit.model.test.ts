import { assert, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Random, Schema } from "effect"
import { AdaptiveLimit, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Learner } from "../../src/policy/internal/adaptiveLearner.ts"
import { Current as DeadlineCurrent } from "../../src/policy/internal/deadline.ts"
import { runs } from "../support/runs.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

class Failing extends Schema.TaggedError<Failing>()("Failing", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}
const failing = (verdict: Fault.Verdict) => new Failing({ verdict })

type End = Effect.Effect<void, Failing>

const Ends = Schema.Literals([
  "success",
  "overloaded",
  "overloaded for 3 s",
  "reset",
  "timeout",
  "throttled",
  "permanent",
  "rejected",
  "malformed",
  "defect",
  "interrupted"
])

const ends: Readonly<Record<(typeof Ends)["Type"], End>> = {
  success: Effect.void,
  overloaded: failing(Fault.overloaded()),
  "overloaded for 3 s": failing(Fault.overloaded("3 seconds")),
  reset: failing(Fault.ambiguous),
  timeout: failing(Fault.timedOut),
  throttled: failing(Fault.throttled("1 second")),
  permanent: failing(Fault.permanent),
  rejected: failing(Fault.rejected("1 second")),
  malformed: failing(Fault.malformed),
  defect: Effect.die("bug"),
  interrupted: Effect.interrupt
}

const ignored = new Set<keyof typeof ends>([
  "throttled",
  "permanent",
  "rejected",
  "malformed",
  "defect",
  "interrupted"
])

const Command = Schema.Struct({
  dice: upTo(99),
  which: upTo(11),
  options: upTo(3),
  end: Ends,
  millis: Schema.Literals([1, 100, 400, 999, 1_000, 2_000, 5_000, 20_000])
})

const brought: ReadonlyArray<AdaptiveLimit.LimitOptions | undefined> = [
  undefined,
  undefined,
  { maxWait: 1_500 },
  { inOutage: "fail" }
]

/** Of those that say something half are successes, so that outages come and go. */
const action = (dice: number) => {
  if (dice < 35) return "start"
  if (dice < 37) return "start without time"
  if (dice < 50) return "succeed"
  if (dice < 72) return "end"
  if (dice < 78) return "report a first token"
  if (dice < 80) return "end and interrupt the next"
  if (dice < 87) return "interrupt"
  return "wait"
}

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(200))

const Setup = Schema.Struct({
  min: Schema.Literals([1, 2]),
  initial: Schema.Literals([2, 4]),
  max: Schema.Literals([4, 8]),
  outageAfter: Schema.Literals([1, 2, 5]),
  maxQueue: Schema.Literals([0, 3, 100]),
  seed: upTo(1_000)
})

const probeTimeout = 4_000

interface Started {
  readonly id: number
  readonly gate: Deferred.Deferred<End>
  readonly first: Deferred.Deferred<void>
  readonly fiber: Fiber.Fiber<Exit.Exit<void, Failing | AdaptiveLimit.LimitExceeded>>
}

const pick = <A>(items: ReadonlyArray<A>, which: number): A | undefined => items[which % Math.max(1, items.length)]

it.effect.prop(
  "keeps what it promises under random calls, outcomes, interruptions and clock moves",
  { setup: Setup, commands: Commands },
  ({ commands, setup: { initial, max, maxQueue, min, outageAfter, seed } }) =>
    Effect.scoped(Effect.gen(function*() {
      const service = yield* AdaptiveLimit.make({
        min,
        initial,
        max,
        outageAfter,
        maxQueue,
        maxQueueInOutage: maxQueue + 2,
        probeTimeout
      })
      let now = 0
      let ids = 0
      /** In the order in which they began. */
      const order: Array<number> = []
      let outages = 0
      /** What runs, since when, and in which outage it began. */
      const running = new Map<number, { readonly since: number; readonly probeOf: number | undefined }>()
      const calls = new Map<number, Started>()
      const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

      for (const command of commands) {
        const before = yield* service.state("k")
        const runningBefore = new Set(running.keys())
        const doing = action(command.dice)
        let said: "something" | "nothing" | "taken" = "nothing"
        switch (doing) {
          case "start":
          case "start without time": {
            const id = ++ids
            const gate = yield* Deferred.make<End>()
            const first = yield* Deferred.make<void>()
            const reporting = Deferred.await(first).pipe(
              Effect.andThen(AdaptiveLimit.firstToken),
              Effect.andThen(Effect.never)
            )
            const work = Effect.acquireUseRelease(
              Effect.clockWith((clock) =>
                Effect.map(service.state("k"), ({ phase }) => {
                  order.push(id)
                  const since = clock.currentTimeMillisUnsafe()
                  running.set(id, { since, probeOf: phase === "Out" ? outages : undefined })
                })
              ),
              () => Effect.raceFirst(Effect.flatten(Deferred.await(gate)), reporting),
              () => Effect.sync(() => running.delete(id))
            )
            const fiber = yield* work.pipe(
              service.withLimit("k", brought[command.options]),
              Effect.exit,
              Effect.provideService(Telemetry.Listener, ({ _tag }) => {
                if (_tag === "OutageBegan") outages++
              }),
              Effect.provideService(DeadlineCurrent, doing === "start" ? undefined : now),
              Effect.forkChild({ startImmediately: true })
            )
            calls.set(id, { id, gate, first, fiber })
            break
          }
          case "succeed":
          case "end":
          case "end and interrupt the next": {
            const id = pick([...running.keys()], command.which)
            const call = id === undefined ? undefined : calls.get(id)
            if (call === undefined) break
            const end = doing === "succeed" ? "success" : command.end
            said = ignored.has(end) ? "nothing" : end === "success" ? "taken" : "something"
            if (doing !== "end and interrupt the next") {
              yield* Deferred.succeed(call.gate, ends[end])
              yield* Fiber.await(call.fiber)
              break
            }
            const next = [...calls.values()].find(({ fiber, id }) =>
              !running.has(id) && fiber.pollUnsafe() === undefined
            )
            yield* Effect.withFiber(() => {
              Deferred.doneUnsafe(call.gate, Exit.succeed(ends[end]))
              next?.fiber.interruptUnsafe()
              return Effect.void
            })
            break
          }
          case "report a first token": {
            const id = pick([...running.keys()], command.which)
            const call = id === undefined ? undefined : calls.get(id)
            if (call === undefined) break
            said = "taken"
            yield* Deferred.succeed(call.first, undefined)
            break
          }
          case "interrupt": {
            const call = pick([...calls.values()], command.which)
            if (call !== undefined) yield* Fiber.interrupt(call.fiber)
            break
          }
          case "wait": {
            // Time may show that it is an outage.
            said = "something"
            yield* TestClock.adjust(command.millis)
            now += command.millis
            break
          }
        }
        yield* settle
        const at = `after ${doing} ${JSON.stringify(command)}`
        const state = yield* service.state("k")
        // Whoever comes may be the first to notice that all slots have been silent for too long.
        if (doing.startsWith("start") && before.phase !== "Out" && state.phase === "Out") said = "something"

        for (const [id, { fiber }] of calls) {
          const exit = fiber.pollUnsafe()
          if (exit === undefined) continue
          calls.delete(id)
          assert.isFalse(running.has(id), at)
          if (Exit.isFailure(exit)) continue
          const error = Exit.isFailure(exit.value) ? Cause.squash(exit.value.cause) : undefined
          if (!(error instanceof AdaptiveLimit.LimitExceeded)) continue
          assert.isFalse(order.includes(id), `${at}: a refused call was started`)
          if (error.reason === "Outage") assert.isDefined(error.retryAfter, at)
        }

        // Always within the bounds.
        assert.isAtLeast(state.limit, min, at)
        assert.isAtMost(state.limit, max, at)
        // Permits are conserved.
        assert.strictEqual(state.running + state.givenUp, running.size, at)
        assert.strictEqual(state.waiting, calls.size - running.size, at)
        assert.isAtMost(state.waiting, maxQueue + 2, at)
        // Nobody waits who could run, and nobody runs who must not.
        const hasBegun = [...running.keys()].some((id) => !runningBefore.has(id))
        if (state.phase === "Steady" && before.phase === "Steady" && hasBegun && state.limit >= before.limit) {
          assert.isAtMost(state.running, state.limit, at)
        }
        // Ignored samples move nothing.
        if (said === "nothing") {
          assert.strictEqual(state.limit, before.limit, at)
          assert.isTrue(state.phase === before.phase, at)
        }
        // It grows with what was taken, and only where it was used to the full, or after an outage.
        if (state.limit > before.limit) {
          assert.strictEqual(said, "taken", at)
          assert.isTrue(before.phase === "Out" || before.running + before.waiting >= before.limit, at)
          if (before.phase !== "Out") assert.strictEqual(state.limit, before.limit + 1, at)
        }
        // An outage ends with what was taken, and begins with what failed.
        if (before.phase === "Out" && state.phase !== "Out") assert.strictEqual(said, "taken", at)
        if (before.phase !== "Out" && state.phase === "Out") assert.strictEqual(said, "something", at)
        // In the order of arrival.
        assert.deepStrictEqual(order, order.toSorted((a, b) => a - b), at)
        // One probe at a time.
        if (state.phase === "Out") {
          const probes = [...running.values()].filter(({ probeOf, since }) =>
            probeOf === outages && now - since < probeTimeout
          )
          assert.isAtMost(probes.length, 1, at)
        }
      }

      yield* Effect.forEach(calls.values(), ({ fiber }) => Fiber.interrupt(fiber))
      yield* settle
      assert.deepInclude(yield* service.state("k"), { running: 0, waiting: 0, givenUp: 0 })
      // And it works on: within the longest interval something gets through.
      const last = yield* Effect.forkChild(service.withLimit("k")(Effect.void), { startImmediately: true })
      yield* TestClock.adjust("11 minutes")
      assert.isDefined(last.pollUnsafe())
    })).pipe(Effect.provide(TestClock.layer()), Random.withSeed(seed)),
  { arbitrary: { runs: runs(400, 20_000) }, timeout: runs(60_000, 1_800_000) }
)

const allBounds = [
  { min: 1, initial: 1, max: 1 },
  { min: 1, initial: 10, max: 200 },
  { min: 3, initial: 3, max: 9 },
  { min: 5, initial: 20, max: 20 }
]

const Feedback = Schema.Struct({
  kind: Schema.Literals(["taken", "taken", "taken", "overloaded", "failed", "took", "stop", "restart"]),
  level: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 })),
  isUsed: Schema.Boolean,
  millis: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
})

it.effect.prop(
  "whatever it is told, the limit stays within its bounds, grows by used successes alone, and falls once a generation",
  {
    which: upTo(allBounds.length - 1),
    feedback: Schema.Array(Feedback).check(Schema.isMaxLength(300))
  },
  ({ feedback, which }) =>
    Effect.sync(() => {
      const { initial, max, min } = allBounds[which] ?? { min: 1, initial: 1, max: 1 }
      const learner = new Learner({ min, initial, max, latencyTolerance: 5 })
      let now = 0
      for (const { isUsed, kind, level, millis } of feedback) {
        const { generation, limit } = learner
        now += millis
        switch (kind) {
          case "taken": {
            learner.taken(level, isUsed, now)
            assert.isAtLeast(learner.limit, limit)
            if (!isUsed) assert.strictEqual(learner.limit, limit)
            assert.strictEqual(learner.generation, generation)
            break
          }
          case "took": {
            const isLowered = learner.took("firstToken", millis)
            assert.strictEqual(learner.generation, isLowered ? generation + 1 : generation)
            assert.isAtMost(learner.limit, limit)
            assert.isAtLeast(learner.limit, Math.max(min, limit / 2))
            break
          }
          case "overloaded":
          case "failed": {
            learner.remember()
            if (kind === "failed") learner.failed()
            else learner.overloaded(level, now)
            assert.isAtMost(learner.limit, limit)
            assert.strictEqual(learner.generation, generation + 1)
            break
          }
          case "stop": {
            learner.stop()
            assert.strictEqual(learner.limit, min)
            break
          }
          case "restart": {
            learner.restart()
            break
          }
        }
        assert.isAtLeast(learner.limit, min)
        assert.isAtMost(learner.limit, max)
      }
      // It always comes back to full use.
      for (let i = 0; i < 25_000; i++) {
        now += 60_000
        learner.taken(learner.allowed, true, now)
      }
      assert.strictEqual(learner.allowed, max)
    }),
  { arbitrary: { runs: runs(300, 20_000) }, timeout: runs(30_000, 1_800_000) }
)
