import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Array, Duration, Effect, Exit, Fiber, Layer, Ref, Schema, Stream } from "effect"
import { Fault } from "effect-resilience"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { type AiError, LanguageModel, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"

const ok = Effect.succeed("ok")
const outcomes = <E extends string>(plan: FaultPlan.FaultPlan<E>, times: number, key?: string) =>
  Effect.forEach(
    Array.range(1, times),
    () => FaultPlan.apply(ok, plan, key).pipe(Effect.catch((e) => Effect.succeed<string>(e)))
  )

describe("FaultPlan", () => {
  describe("rules", () => {
    it.effect("the n-th calls of each key fail", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ calls: [1, 3], error: "bad" })] })
        assert.deepStrictEqual(yield* outcomes(plan, 4, "a"), ["bad", "ok", "bad", "ok"])
        assert.deepStrictEqual(yield* outcomes(plan, 2, "b"), ["bad", "ok"])
      }))

    it.effect("an outage is counted on the clock since the plan was made, its end excluded", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("1 day")
        const outage = FaultPlan.outage({ from: "1 minute", to: "2 minutes", error: "down" })
        const plan = yield* FaultPlan.make({ seed: 1, faults: [outage] })
        const seen = yield* Effect.forEach(
          Array.range(1, 5),
          () =>
            Effect.andThen(
              Effect.map(outcomes(plan, 1), Array.join("")),
              (outcome) => Effect.as(TestClock.adjust("30 seconds"), outcome)
            )
        )
        assert.deepStrictEqual(seen, ["ok", "ok", "down", "down", "ok"])
      }))

    it.effect("a probability of 0 never happens, one of 1 always", () =>
      Effect.gen(function*() {
        const never = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ probability: 0, error: "bad" })] })
        const always = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ probability: 1, error: "bad" })] })
        assert.deepStrictEqual(yield* outcomes(never, 50), Array.replicate("ok", 50))
        assert.deepStrictEqual(yield* outcomes(always, 50), Array.replicate("bad", 50))
      }))

    it.effect("a probability is met in the long run", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({ seed: 3, faults: [FaultPlan.fail({ probability: 0.3, error: "bad" })] })
        yield* outcomes(plan, 5000)
        const { failed } = yield* plan.counts
        assert.isTrue(Math.abs(failed / 5000 - 0.3) < 0.03, `${failed}`)
      }))

    it.effect("all conditions must hold, and the first rule that applies wins", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({
          seed: 1,
          faults: [
            FaultPlan.fail({ keys: ["a"], calls: [2], error: "first" }),
            FaultPlan.fail({ keys: (key) => key !== "c", calls: [2, 3], error: "second" })
          ]
        })
        assert.deepStrictEqual(yield* outcomes(plan, 3, "a"), ["ok", "first", "second"])
        assert.deepStrictEqual(yield* outcomes(plan, 3, "b"), ["ok", "second", "second"])
        assert.deepStrictEqual(yield* outcomes(plan, 3, "c"), ["ok", "ok", "ok"])
      }))

    it.effect("an error may be computed from the call", () =>
      Effect.gen(function*() {
        const error = ({ call, key }: FaultPlan.Call) => `${key} ${call}`
        const plan = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ error })] })
        assert.deepStrictEqual(yield* outcomes(plan, 2, "a"), ["a 1", "a 2"])
      }))

    it.effect("a failure before the call leaves the work undone, one after it only loses the answer", () =>
      Effect.gen(function*() {
        const done = yield* Ref.make(0)
        const work = Ref.update(done, (n) => n + 1)
        const before = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ error: "reset" })] })
        assert.strictEqual(yield* Effect.flip(work.pipe(FaultPlan.apply(before))), "reset")
        assert.strictEqual(yield* Ref.get(done), 0)
        const after = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ error: "reset", after: true })] })
        assert.strictEqual(yield* Effect.flip(work.pipe(FaultPlan.apply(after))), "reset")
        assert.strictEqual(yield* Ref.get(done), 1)
        const own = Effect.fail("own").pipe(FaultPlan.apply(after))
        assert.strictEqual(yield* Effect.flip(own), "own")
      }))

    it.effect("a call that hangs never answers, and can be interrupted", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({
          seed: 1,
          faults: [FaultPlan.hang({ calls: [1] }), FaultPlan.hang({ after: true })]
        })
        const done = yield* Ref.make(0)
        const work = FaultPlan.apply(Ref.update(done, (n) => n + 1), plan)
        const first = yield* Effect.forkChild(work, { startImmediately: true })
        const second = yield* Effect.forkChild(work, { startImmediately: true })
        yield* TestClock.adjust("1 day")
        assert.isUndefined(first.pollUnsafe())
        assert.isUndefined(second.pollUnsafe())
        assert.strictEqual(yield* Ref.get(done), 1)
        yield* Fiber.interruptAll([first, second])
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(first)))
      }))

    it.effect("delays add up, come before the call, and are virtual", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({
          seed: 1,
          faults: [
            FaultPlan.delay({ by: "1 second" }),
            FaultPlan.delay({ by: "2 seconds" }),
            FaultPlan.fail({ error: "bad" })
          ]
        })
        const fiber = yield* Effect.forkChild(Effect.flip(FaultPlan.apply(ok, plan)), { startImmediately: true })
        yield* TestClock.adjust("2999 millis")
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* Fiber.join(fiber), "bad")
        assert.deepStrictEqual(yield* plan.counts, { calls: 1, failed: 1, hung: 0, malformed: 0, delayed: 1 })
      }))

    it.effect("a latency keeps to its distribution", () =>
      Effect.gen(function*() {
        const sample = Effect.fnUntraced(function*(by: FaultPlan.Latency) {
          const plan = yield* FaultPlan.make({ seed: 5, faults: [FaultPlan.delay({ by })] })
          yield* Effect.forEach(Array.range(1, 2000), () => plan.decide("k"))
          return (yield* plan.injections).map((injection) => injection.delayMillis).toSorted((a, b) => a - b)
        })
        const even = yield* sample(FaultPlan.uniform({ min: "1 second", max: "3 seconds" }))
        assert.isTrue(even.every((millis) => millis >= 1000 && millis < 3000))
        assert.isTrue(Math.abs((even[1000] ?? 0) - 2000) < 100)
        const tail = yield* sample(FaultPlan.logNormal({ median: "1 second", p99: "10 seconds" }))
        assert.isTrue(Math.abs((tail[1000] ?? 0) - 1000) < 100, `${tail[1000]}`)
        assert.isTrue(Math.abs((tail[1980] ?? 0) - 10_000) < 3000, `${tail[1980]}`)
      }))

    it.effect("a malformed text is truncated, garbage, empty or unfinished; a function gives anything", () =>
      Effect.gen(function*() {
        const spoilt = Effect.fnUntraced(function*<A>(output: FaultPlan.Malformation, value: A) {
          const plan = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.malformed({ output })] })
          return yield* FaultPlan.apply(Effect.succeed(value), plan)
        })
        assert.strictEqual(yield* spoilt("truncated", "abcd"), "ab")
        assert.match(yield* spoilt("garbage", "abcd"), /doctype/)
        assert.strictEqual(yield* spoilt("empty", "abcd"), "")
        assert.strictEqual(yield* spoilt("unfinished", "abcd"), "abc")
        assert.isUndefined(yield* spoilt("truncated", { a: 1 }))
        assert.strictEqual(yield* spoilt((value) => [value, value].join(), "abcd"), "abcd,abcd")
      }))

    it("options that make no sense are refused when the rule is built", () => {
      const refused = (build: () => unknown, message: RegExp) => assert.throws(build, message)
      refused(() => FaultPlan.fail({ probability: 1.5, error: 1 }), /option "probability" is 1.5/)
      refused(() => FaultPlan.fail({ probability: Number.NaN, error: 1 }), /option "probability" is NaN/)
      refused(() => FaultPlan.fail({ calls: [0], error: 1 }), /option "calls" is 0/)
      refused(() => FaultPlan.outage({ from: "2 minutes", to: "1 minute", error: 1 }), /option "to"/)
      refused(() => FaultPlan.delay({ by: Duration.infinity }), /option "by"/)
      refused(() => FaultPlan.uniform({ min: "2 seconds", max: "1 second" }), /option "max"/)
      refused(() => FaultPlan.logNormal({ median: 0, p99: 1 }), /option "median"/)
    })
  })

  describe("determinism", () => {
    const faults = [
      FaultPlan.delay({ probability: 0.4, by: FaultPlan.uniform({ min: 1, max: 5000 }) }),
      FaultPlan.fail({ probability: 0.3, error: "bad" }),
      FaultPlan.malformed({ probability: 0.2, output: "empty" })
    ]
    const keys = ["a", "b", "c"] as const
    type Seen = ReadonlyArray<readonly [key: string, call: number, kind: string, delayMillis: number]>
    const byKey = (injections: ReadonlyArray<FaultPlan.Injection>, key: string): Seen =>
      injections.filter((injection) => injection.key === key)
        .map(({ call, delayMillis, key, kind }) => [key, call, kind, delayMillis])

    it.effect.prop(
      "a key's faults are the same whatever the other keys do and however long anything takes",
      {
        seed: Schema.Int,
        story: Arbitrary.array(
          Arbitrary.schema(Schema.Struct({
            key: Schema.Literals(keys),
            pause: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2000 }))
          })),
          { maxLength: 40 }
        )
      },
      ({ seed, story }) =>
        Effect.gen(function*() {
          const mixed = yield* FaultPlan.make({ seed, faults })
          const work = Effect.forEach(
            story,
            ({ key, pause }) =>
              Effect.andThen(Effect.sleep(pause), Effect.exit(FaultPlan.apply(Effect.succeed("x"), mixed, key))),
            { concurrency: "unbounded" }
          )
          const fiber = yield* Effect.forkChild(work, { startImmediately: true })
          yield* TestClock.adjust("1 hour")
          yield* Fiber.join(fiber)
          const seen = yield* mixed.injections
          for (const key of keys) {
            const alone = yield* FaultPlan.make({ seed, faults })
            yield* Effect.forEach(story.filter((entry) => entry.key === key), () => alone.decide(key))
            assert.deepStrictEqual(byKey(seen, key), byKey(yield* alone.injections, key))
          }
        }),
      { arbitrary: { runs: 40, seed: 1 } }
    )

    it.effect("another seed and another key give another sequence", () =>
      Effect.gen(function*() {
        const draw = Effect.fnUntraced(function*(seed: string | number, key: string) {
          const plan = yield* FaultPlan.make({ seed, faults })
          yield* Effect.forEach(Array.range(1, 50), () => plan.decide(key))
          return (yield* plan.injections).map(({ call, kind }) => `${call} ${kind}`).join()
        })
        const sequences = yield* Effect.all([
          draw(1, "a"),
          draw(2, "a"),
          draw("1", "a"),
          draw(1, "b"),
          draw(1, "aa"),
          draw(11, "a")
        ])
        assert.strictEqual(new Set(sequences).size, sequences.length)
        assert.strictEqual(yield* draw(1, "a"), sequences[0])
      }))

    it.effect("concurrent first calls of one key are counted one by one", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ calls: [1], error: "bad" })] })
        const exits = yield* Effect.forEach(
          Array.range(1, 100),
          () => Effect.exit(Effect.andThen(Effect.yieldNow, FaultPlan.apply(ok, plan))),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(exits.filter(Exit.isFailure).length, 1)
        assert.strictEqual((yield* plan.counts).calls, 100)
      }))
  })

  describe("around a language model", () => {
    const Search = Tool.make("Search", { parameters: Schema.Struct({ query: Schema.String }), success: Schema.String })
    const Kit = Toolkit.make(Search)
    const answer = ScriptedModel.turn(
      "one two three four",
      ScriptedModel.toolCall({ id: "1", name: "Search", params: { query: "x" } })
    )
    const withPlan = <A, E>(
      faults: ReadonlyArray<FaultPlan.Rule<AiError.AiError>>,
      script: ScriptedModel.Script,
      program: (plan: FaultPlan.FaultPlan<AiError.AiError>) => Effect.Effect<
        A,
        E,
        LanguageModel.LanguageModel | ScriptedModel.Calls
      >
    ) =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({ seed: 1, faults })
        const layer = ScriptedModel.layer(script).pipe(FaultPlan.layerLanguageModel(plan))
        return yield* Effect.provide(program(plan), layer)
      })

    const generate = LanguageModel.generateText({ prompt: "?", toolkit: Kit, disableToolCallResolution: true })
    const stream = Stream.runCollect(
      LanguageModel.streamText({ prompt: "?", toolkit: Kit, disableToolCallResolution: true })
    )
    const streamed = Effect.map(
      stream,
      (parts) => parts.map((part) => part.type === "finish" ? part.reason : part.type)
    )
    const city = LanguageModel.generateObject({ prompt: "?", schema: Schema.Struct({ city: Schema.String }) })
    const overloaded = ScriptedModel.fail(Fault.overloaded("2 seconds"))

    it.effect("a failed request never reaches the model, except after it", () =>
      withPlan(
        [
          FaultPlan.fail({ calls: [1], error: overloaded }),
          FaultPlan.fail({ calls: [2], error: overloaded, after: true })
        ],
        () => answer,
        (plan) =>
          Effect.gen(function*() {
            assert.strictEqual(yield* Effect.flip(generate), overloaded)
            assert.strictEqual((yield* ScriptedModel.requests).length, 0)
            assert.strictEqual(yield* Effect.flip(generate), overloaded)
            assert.strictEqual((yield* ScriptedModel.requests).length, 1)
            assert.strictEqual((yield* generate).text, "one two three four")
            assert.deepStrictEqual(yield* plan.counts, { calls: 3, failed: 2, hung: 0, malformed: 0, delayed: 0 })
          })
      ))

    it.effect("a stream fails before its first part, or in place of its end", () =>
      withPlan(
        [
          FaultPlan.fail({ calls: [1], error: overloaded }),
          FaultPlan.fail({ calls: [2], error: overloaded, after: true })
        ],
        () => "one two",
        () =>
          Effect.gen(function*() {
            assert.strictEqual(yield* Effect.flip(stream), overloaded)
            const parts: Array<string> = []
            const cut = LanguageModel.streamText({ prompt: "?" }).pipe(
              Stream.runForEach((part) => Effect.sync(() => parts.push(part.type)))
            )
            assert.strictEqual(yield* Effect.flip(cut), overloaded)
            assert.deepStrictEqual(parts, ["text-start", "text-delta", "text-delta", "text-end"])
            assert.deepStrictEqual(yield* streamed, ["text-start", "text-delta", "text-delta", "text-end", "stop"])
          })
      ))

    it.effect("latency delays generateText, generateObject and streamText alike", () =>
      withPlan(
        [FaultPlan.delay({ by: "1 minute" })],
        () => "{\"city\":\"Wien\"}",
        () =>
          Effect.gen(function*() {
            for (const program of [Effect.asVoid(generate), Effect.asVoid(city), Effect.asVoid(stream)]) {
              const fiber = yield* Effect.forkChild(program, { startImmediately: true })
              yield* TestClock.adjust("59 seconds")
              assert.isUndefined(fiber.pollUnsafe())
              yield* TestClock.adjust("1 second")
              yield* Fiber.join(fiber)
            }
          })
      ))

    it.effect("a stream that hangs gives its parts and no end", () =>
      withPlan(
        [FaultPlan.hang({ after: true })],
        ["one"],
        () =>
          Effect.gen(function*() {
            const parts: Array<string> = []
            const open = LanguageModel.streamText({ prompt: "?" }).pipe(
              Stream.runForEach((part) => Effect.sync(() => parts.push(part.type)))
            )
            const fiber = yield* Effect.forkChild(open, { startImmediately: true })
            yield* TestClock.adjust("1 hour")
            assert.isUndefined(fiber.pollUnsafe())
            assert.deepStrictEqual(parts, ["text-start", "text-delta", "text-end"])
            yield* Fiber.interrupt(fiber)
          })
      ))

    const malformed = (output: FaultPlan.Malformation, script: ScriptedModel.Answer = answer) =>
      withPlan(
        [FaultPlan.malformed({ output })],
        () => script,
        () =>
          Effect.gen(function*() {
            const { finishReason, text, toolCalls } = yield* generate
            return { text, finishReason, toolCalls: toolCalls.length, streamed: yield* streamed }
          })
      )

    it.effect("a truncated answer finishes with length and has lost its tool call", () =>
      Effect.map(malformed("truncated"), (seen) =>
        assert.deepStrictEqual(seen, {
          text: "one two t",
          finishReason: "length",
          toolCalls: 0,
          streamed: ["text-start", "text-delta", "text-end", "length"]
        })))

    it.effect("an empty answer has nothing but its finish", () =>
      Effect.map(
        malformed("empty"),
        (seen) =>
          assert.deepStrictEqual(seen, { text: "", finishReason: "tool-calls", toolCalls: 0, streamed: ["tool-calls"] })
      ))

    it.effect("an unfinished answer has everything but its finish", () =>
      Effect.gen(function*() {
        const seen = yield* malformed("unfinished")
        assert.deepStrictEqual([seen.text, seen.finishReason, seen.toolCalls], ["one two three four", "unknown", 1])
        assert.strictEqual(seen.streamed.at(-1), "tool-call")
      }))

    it.effect("a garbage answer is a page of HTML", () =>
      Effect.map(malformed("garbage"), (seen) => assert.match(seen.text, /^<!doctype html>/)))

    it.effect("a function rewrites the texts and leaves the rest", () =>
      Effect.map(
        malformed((text) => `${String(text)}!`),
        (seen) =>
          assert.deepStrictEqual([seen.text, seen.toolCalls, seen.finishReason], [
            "one two three four!",
            1,
            "tool-calls"
          ])
      ))

    it.effect("a malformed object is the error of decoding it, and a soft failure", () =>
      withPlan(
        [
          FaultPlan.malformed({ calls: [1], output: "truncated" }),
          FaultPlan.malformed({ calls: [2], output: "unfinished" })
        ],
        () => "{\"city\":\"Wien\"}",
        () =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(city)
            assert.strictEqual(error._tag === "AiError" ? error.reason._tag : error._tag, "StructuredOutputError")
            assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
            const unfinished = yield* city
            assert.deepStrictEqual([unfinished.value, unfinished.finishReason], [{ city: "Wien" }, "unknown"])
          })
      ))

    it.effect("the tools of a request run as they would without a plan", () =>
      withPlan(
        [FaultPlan.delay({ calls: [2], by: "1 second" })],
        () => answer,
        () =>
          Effect.gen(function*() {
            const response = yield* LanguageModel.generateText({ prompt: "?", toolkit: Kit })
            assert.deepStrictEqual(response.toolResults.map((part) => part.result), ["hits for x"])
          }).pipe(Effect.provide(Kit.toLayer({ Search: ({ query }) => Effect.succeed(`hits for ${query}`) })))
      ))

    it.effect("two models under one plan have faults of their own", () =>
      Effect.gen(function*() {
        const plan = yield* FaultPlan.make({
          seed: 1,
          faults: [FaultPlan.fail({ keys: ["large"], error: overloaded })]
        })
        const model = (key: string) => ScriptedModel.layer(() => key).pipe(FaultPlan.layerLanguageModel(plan, key))
        const ask = Effect.map(LanguageModel.generateText({ prompt: "?" }), (response) => response.text)
        assert.strictEqual(yield* Effect.flip(Effect.provide(ask, Layer.fresh(model("large")))), overloaded)
        assert.strictEqual(yield* Effect.provide(ask, model("small")), "small")
      }))
  })
})
