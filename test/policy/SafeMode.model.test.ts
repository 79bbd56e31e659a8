import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schema, Stream } from "effect"
import { Fault, SafeMode } from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const ends = {
  success: Effect.void,
  failure: Effect.fail(new Told({ verdict: Fault.transient })),
  defect: Effect.die("bug"),
  ignored: Effect.fail(new Told({ verdict: Fault.permanent })),
  interrupted: Effect.interrupt
} satisfies Record<string, Effect.Effect<void, Told>>

type End = keyof typeof ends

const keys = ["a", "b"] as const

const Command = Schema.Struct({
  what: Schema.Literals(["start", "start", "start", "end", "end", "end", "end", "enter", "reset"]),
  key: Schema.Literals(keys),
  which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 })),
  end: Schema.Literals(["success", "failure", "failure", "failure", "defect", "ignored", "interrupted"])
})

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(150))

interface Call {
  readonly key: string
  readonly startedAt: number
}

/** One key as one would tell it: everything that ever happened to it, read from the beginning each time. */
class Model {
  private readonly limit: number
  private past: Array<{ readonly what: "success" | "failure" | "enter" | "reset"; readonly startedAt: number }> = []
  constructor(limit: number) {
    this.limit = limit
  }
  end(call: Call, end: End) {
    if (end === "success") this.past.push({ what: "success", startedAt: call.startedAt })
    if (end === "failure" || end === "defect") this.past.push({ what: "failure", startedAt: call.startedAt })
  }
  hand(what: "enter" | "reset") {
    this.past.push({ what, startedAt: Number.POSITIVE_INFINITY })
  }
  /** `times` are how many calls had begun when each thing happened. */
  view(times: ReadonlyArray<number>) {
    let active = false
    let failures = 0
    let since = 0
    this.past.forEach(({ startedAt, what }, index) => {
      if (startedAt < since) return
      const wasActive = active
      if (what === "failure") failures++
      else if (what !== "enter") failures = 0
      if (what === "enter" || failures >= this.limit) active = true
      if (what === "success" || what === "reset") active = false
      const turned = what === "success" || what === "reset" || active !== wasActive
      if (turned) since = times[index] ?? 0
    })
    return { active, failures }
  }
  get length() {
    return this.past.length
  }
}

it.effect.prop(
  "behaves like its model under random calls, ends, interruptions and changes by hand",
  { limit: Schema.Literals([1, 2, 3]), commands: Commands },
  ({ commands, limit }) =>
    Effect.scoped(Effect.gen(function*() {
      const safeMode = yield* SafeMode.make({
        failures: limit,
        countsAsFailure: (verdict) => verdict._tag !== "Permanent"
      })
      const changes: Array<SafeMode.State> = []
      yield* Stream.runForEach(safeMode.changes, (change) => Effect.sync(() => changes.push(change))).pipe(
        Effect.forkScoped({ startImmediately: true })
      )
      const models = { a: new Model(limit), b: new Model(limit) }
      const times: Record<"a" | "b", Array<number>> = { a: [], b: [] }
      const expected: Array<{ readonly key: string; readonly active: boolean }> = []
      let started = 0
      const calls: Array<{
        readonly key: "a" | "b"
        readonly startedAt: number
        readonly gate: Deferred.Deferred<Effect.Effect<void, Told>>
        readonly fiber: Fiber.Fiber<string, Told>
      }> = []

      for (const command of commands) {
        const before = { a: models.a.view(times.a).active, b: models.b.view(times.b).active }
        switch (command.what) {
          case "start": {
            const gate = yield* Deferred.make<Effect.Effect<void, Told>>()
            const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
              safeMode.guard(command.key, { safe: Effect.void }),
              Effect.map((answer) => answer.source),
              Effect.forkChild({ startImmediately: true })
            )
            calls.push({ key: command.key, startedAt: started++, gate, fiber })
            break
          }
          case "end": {
            const [call] = calls.splice(command.which % Math.max(1, calls.length), 1)
            if (call === undefined) break
            if (command.end === "interrupted") yield* Fiber.interrupt(call.fiber)
            else yield* Deferred.succeed(call.gate, ends[command.end])
            const exit = yield* Fiber.await(call.fiber)
            models[call.key].end(call, command.end)
            while (times[call.key].length < models[call.key].length) times[call.key].push(started)
            const { active } = models[call.key].view(times[call.key])
            const answered = command.end === "failure" && active ? "safe" : command.end === "success" ? "primary" : ""
            assert.strictEqual(exit._tag === "Success" ? exit.value : "", answered)
            break
          }
          default: {
            yield* safeMode[command.what](command.key)
            models[command.key].hand(command.what)
            times[command.key].push(started)
          }
        }
        for (const key of keys) {
          const modelled = models[key].view(times[key])
          assert.deepStrictEqual(yield* safeMode.state(key), { key, ...modelled }, JSON.stringify(command))
          if (modelled.active !== before[key]) expected.push({ key, active: modelled.active })
        }
      }
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(changes.map(({ active, key }) => ({ key, active })), expected)
      const inMind = (yield* safeMode.states).map(({ key }) => key).toSorted()
      assert.deepStrictEqual(
        inMind,
        keys.filter((key) => {
          const { active, failures } = models[key].view(times[key])
          return active || failures > 0
        })
      )
      yield* Effect.forEach(calls, ({ fiber }) => Fiber.interrupt(fiber))
    })).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(300, 20_000), size: 150, seed: 1 }, timeout: runs(30_000, 1_800_000) }
)
