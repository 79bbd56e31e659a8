import { assert, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer, Schema } from "effect"
import { LastGood } from "effect-resilience"
import { KeyValueStore } from "effect/persistence"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

const keys = ["a", "b", "c"] as const

const Command = Schema.Struct({
  what: Schema.Literals(["start", "start", "start", "end", "end", "end", "wait", "forget"]),
  key: Schema.Literals(keys),
  which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 })),
  end: Schema.Literals(["success", "success", "success", "failure", "interrupted"]),
  millis: Schema.Literals([1, 500, 1000])
})

const Commands = Schema.Array(Command).check(Schema.isMinLength(10), Schema.isMaxLength(100))

const timeToLive = 5_000

const worlds = {
  memory: LastGood.layer({ timeToLive }),
  store: LastGood.layerKeyValueStore({ timeToLive }).pipe(Layer.provide(KeyValueStore.layerMemory))
}

const numbers = LastGood.slot("numbers", Schema.Finite)

it.effect.prop(
  "remembers of each key the success that began last, under random calls, ends, interruptions and clock moves",
  { world: Schema.Literals(["memory", "store"]), commands: Commands },
  ({ commands, world }) =>
    Effect.gen(function*() {
      const model = new Map<string, { readonly value: number; readonly startedAt: number }>()
      const calls: Array<{
        readonly key: string
        readonly value: number
        readonly startedAt: number
        readonly gate: Deferred.Deferred<number, string>
        readonly fiber: Fiber.Fiber<number, string>
      }> = []
      let now = 0
      let count = 0

      for (const command of commands) {
        switch (command.what) {
          case "start": {
            const gate = yield* Deferred.make<number, string>()
            const fiber = yield* Deferred.await(gate).pipe(
              LastGood.remember(numbers, command.key),
              Effect.forkChild({ startImmediately: true })
            )
            calls.push({ key: command.key, value: count++, startedAt: now, gate, fiber })
            break
          }
          case "end": {
            const [call] = calls.splice(command.which % Math.max(1, calls.length), 1)
            if (call === undefined) break
            if (command.end === "interrupted") yield* Fiber.interrupt(call.fiber)
            else if (command.end === "failure") yield* Deferred.fail(call.gate, "down")
            else yield* Deferred.succeed(call.gate, call.value)
            yield* Fiber.await(call.fiber)
            const known = model.get(call.key)
            if (command.end === "success" && (known === undefined || known.startedAt <= call.startedAt)) {
              model.set(call.key, call)
            }
            break
          }
          case "wait": {
            yield* TestClock.adjust(command.millis)
            now += command.millis
            break
          }
          case "forget": {
            yield* LastGood.forget(numbers, command.key)
            model.delete(command.key)
          }
        }
        for (const key of keys) {
          const modelled = model.get(key)
          const expected = modelled === undefined || now - modelled.startedAt > timeToLive
            ? undefined
            : { value: modelled.value, age: now - modelled.startedAt }
          const seen = yield* Effect.match(LastGood.recall(numbers, key), {
            onFailure: () => undefined,
            onSuccess: ({ age, value }) => ({ value, age: Duration.toMillis(age) })
          })
          assert.deepStrictEqual(seen, expected, JSON.stringify(command))
        }
      }
      yield* Effect.forEach(calls, ({ fiber }) => Fiber.interrupt(fiber))
    }).pipe(Effect.provide(Layer.fresh(worlds[world])), Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(200, 20_000), size: 100, seed: 1 }, timeout: runs(30_000, 1_800_000) }
)
