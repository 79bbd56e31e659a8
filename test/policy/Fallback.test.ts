import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Option, Ref, Schema } from "effect"
import { CircuitBreaker, Fallback, Fault, Retry, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { recordingTracer } from "../recordingTracer.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", {}) {
  readonly [Fault.verdictOf] = Fault.overloaded()
  override get message() {
    return "no capacity"
  }
}
class Broken extends Schema.TaggedError<Broken>("test/Broken")("Broken", { at: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `broken at ${this.at}`
  }
}
class Odd extends Schema.TaggedError<Odd>("test/Odd")("Odd", { n: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.malformed
}

const fields = <A, S extends string>({ degraded, errors, source, value }: Fallback.Answer<A, S>) => ({
  value,
  source,
  degraded,
  errors
})

const busyAt = (label: string) => ({
  label,
  tag: "Busy",
  message: "no capacity",
  verdict: "Overloaded" as const,
  skipped: false
})

const counted = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Ref.make(0), (calls) => ({
    calls: Ref.get(calls),
    effect: Effect.andThen(Ref.update(calls, (n) => n + 1), effect)
  }))

const inSpan = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { spans, tracer } = recordingTracer()
    const exit = yield* Effect.exit(effect).pipe(Effect.withSpan("around"), Effect.withTracer(tracer))
    return { exit, attributes: Object.fromEntries(spans[0]?.attributes ?? []) }
  })

describe("Fallback", () => {
  describe("orElse", () => {
    it.effect("says that the primary answered, and runs nothing else", () =>
      Effect.gen(function*() {
        const that = yield* counted(Effect.succeed("template"))
        const answer = yield* Effect.succeed("outline").pipe(Fallback.orElse("template", () => that.effect))
        assert.deepStrictEqual(fields(answer), { value: "outline", source: "primary", degraded: false, errors: [] })
        assert.strictEqual(yield* that.calls, 0)
      }))

    it.effect("says which step answered, and keeps a summary of every earlier failure", () =>
      Effect.gen(function*() {
        const answer = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("smaller model", () => Effect.fail(new Odd({ n: 3 }))),
          Fallback.orElse("template", () => Effect.succeed("hello"))
        )
        assert.deepStrictEqual(fields(answer), {
          value: "hello",
          source: "template",
          degraded: true,
          errors: [
            busyAt("primary"),
            {
              label: "smaller model",
              tag: "Odd",
              message: new Odd({ n: 3 }).message,
              verdict: "Malformed",
              skipped: false
            }
          ]
        })
      }))

    it.effect("takes the data first as well", () =>
      Effect.gen(function*() {
        const answer = yield* Fallback.orElse(Effect.fail(new Busy()), "template", () => Effect.succeed(1))
        assert.deepStrictEqual(fields(answer), {
          value: 1,
          source: "template",
          degraded: true,
          errors: [busyAt("primary")]
        })
        const broken = Fallback.orElse(Effect.fail(new Broken({ at: "a" })), "t", () => Effect.succeed(1), {
          takes: "all"
        })
        assert.strictEqual((yield* broken).source, "t")
      }))

    it.effect("keeps an answer of an earlier step as it is", () =>
      Effect.gen(function*() {
        const answer = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.succeed(2)),
          Fallback.orElse("third", () => Effect.succeed(3))
        )
        assert.deepStrictEqual(fields(answer), {
          value: 2,
          source: "second",
          degraded: true,
          errors: [busyAt("primary")]
        })
      }))

    it.effect("does not flatten what the fallback gives", () =>
      Effect.gen(function*() {
        const inner = Fallback.primary(Effect.succeed(1), "inner")
        const answer = yield* Effect.fail(new Busy()).pipe(Fallback.orElse("outer", () => inner))
        assert.strictEqual(answer.source, "outer")
        assert.strictEqual(answer.value.source, "inner")
      }))

    it.effect("remembers the earlier steps across a retry around them", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.fail(new Busy())),
          Retry.apply(Retry.policy({ maxAttempts: 3 })),
          Fallback.orElse("third", () => Effect.succeed(3)),
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual((yield* Fiber.join(fiber)).errors, [busyAt("primary"), busyAt("second")])
      }))

    it.effect("shares nothing between the runs of one value", () =>
      Effect.gen(function*() {
        const chain = Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.fail(new Busy())),
          Fallback.orElse("third", () => Effect.yieldNow)
        )
        const answers = yield* Effect.all(Array.from({ length: 20 }, () => chain), { concurrency: "unbounded" })
        for (const answer of answers) assert.deepStrictEqual(answer.errors, [busyAt("primary"), busyAt("second")])
      }))

    it.effect("cuts a long message, and finds a tag for what has none", () =>
      Effect.gen(function*() {
        const error = (value: unknown) =>
          Effect.fail(value).pipe(
            Fallback.orElse("t", () => Effect.void, { takes: "all" }),
            Effect.map((answer) => answer.errors[0])
          )
        assert.strictEqual((yield* error(new Error("x".repeat(5_000))))?.message.length, 1_001)
        const cut = yield* error(new Error(`${"x".repeat(999)}😀 and so on`))
        assert.strictEqual(cut?.message, `${"x".repeat(999)}…`)
        const tags = yield* Effect.forEach([new TypeError("no"), "text", { code: 1 }, undefined], error)
        assert.deepStrictEqual(tags.map((step) => [step?.tag, step?.message]), [
          ["TypeError", "no"],
          ["string", "text"],
          ["object", ""],
          ["undefined", ""]
        ])
        const hostile = {
          _tag: "Hostile",
          get message(): string {
            throw new Error("no message for you")
          }
        }
        assert.deepStrictEqual(yield* error(hostile), {
          label: "primary",
          tag: "Hostile",
          message: "",
          verdict: "Permanent",
          skipped: false
        })
      }))

    it("refuses an empty label", () => {
      assert.throws(() => Fallback.orElse(Effect.void, "", () => Effect.void), /option "label" is "", expected a text/)
      assert.throws(() => Fallback.primary(Effect.void, ""), /Fallback.primary/)
      assert.throws(() => Fallback.step("", Effect.void), /Fallback.step/)
    })
  })

  describe("takes", () => {
    it.effect("takes every verdict but Permanent by default", () =>
      Effect.gen(function*() {
        const { permanent, ...others } = {
          transient: Fault.transient,
          throttled: Fault.throttled(),
          overloaded: Fault.overloaded(),
          timedOut: Fault.timedOut,
          malformed: Fault.malformed,
          contextOverflow: Fault.contextOverflow,
          refused: Fault.refused,
          ambiguous: Fault.ambiguous,
          rejected: Fault.rejected(),
          permanent: Fault.permanent
        }
        const answer = (verdict: Fault.Verdict) =>
          Effect.fail({ [Fault.verdictOf]: verdict }).pipe(Fallback.orElse("t", () => Effect.succeed(0)))
        for (const verdict of Object.values(others)) {
          assert.strictEqual((yield* answer(verdict)).errors[0]?.verdict, verdict._tag)
        }
        assert.deepStrictEqual(yield* Effect.flip(answer(permanent)), { [Fault.verdictOf]: permanent })
      }))

    it.effect("leaves an error that is not taken to the next step, with its label", () =>
      Effect.gen(function*() {
        const second = yield* counted(Effect.succeed(2))
        const answer = yield* Effect.fail(new Broken({ at: "model" })).pipe(
          Fallback.orElse("second", () => second.effect),
          Fallback.orElse("third", () => Effect.succeed(3), { takes: "all" })
        )
        assert.strictEqual(yield* second.calls, 0)
        assert.deepStrictEqual(answer.errors, [
          { label: "primary", tag: "Broken", message: "broken at model", verdict: "Permanent", skipped: false }
        ])
      }))

    it.effect("takes the tags named and no other", () =>
      Effect.gen(function*() {
        const call = (error: Busy | Broken) =>
          Effect.fail(error).pipe(Fallback.orElse("t", () => Effect.succeed("t"), { takes: ["Broken"] }))
        assert.strictEqual((yield* call(new Broken({ at: "" }))).source, "t")
        assert.deepStrictEqual(yield* Effect.exit(call(new Busy())), Exit.fail(new Busy()))
      }))

    it.effect("takes what a predicate over error and verdict says", () =>
      Effect.gen(function*() {
        const call = (error: Odd | Busy) =>
          Effect.fail(error).pipe(
            Fallback.orElse("t", () => Effect.succeed("t"), {
              takes: (error, verdict) => verdict._tag === "Malformed" && error._tag === "Odd" && error.n > 1
            })
          )
        assert.strictEqual((yield* call(new Odd({ n: 2 }))).source, "t")
        assert.strictEqual((yield* Effect.flip(call(new Odd({ n: 1 }))))._tag, "Odd")
        assert.strictEqual((yield* Effect.flip(call(new Busy())))._tag, "Busy")
      }))

    it.effect("reads the classifier of the surroundings", () =>
      Effect.gen(function*() {
        const call = Effect.fail("slow down").pipe(Fallback.orElse("t", () => Effect.succeed("t")))
        assert.strictEqual(yield* Effect.flip(call), "slow down")
        const answer = yield* Fault.withClassifier(call, () => Fault.throttled())
        assert.deepStrictEqual(answer.errors, [
          { label: "primary", tag: "string", message: "slow down", verdict: "Throttled", skipped: false }
        ])
      }))
  })

  describe("defects and interruption", () => {
    it.effect("never answers a defect, alone or beside a failure", () =>
      Effect.gen(function*() {
        const mixed = Effect.fail(new Busy()).pipe(Effect.ensuring(Effect.die("bug")))
        const call = <A, E>(effect: Effect.Effect<A, E>) =>
          effect.pipe(Fallback.orElse("t", () => Effect.succeed("t"), { takes: "all" }), Effect.exit)
        for (const effect of [Effect.die("bug"), mixed]) {
          const exit = yield* call(effect)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        }
        const fallback = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.die("bug")),
          Fallback.orElse("third", () => Effect.succeed("t"), { takes: "all" }),
          Effect.exit
        )
        assert.isTrue(Exit.hasDies(fallback))
      }))

    it.effect("never answers an interruption, in the primary or in a fallback", () =>
      Effect.gen(function*() {
        const last = yield* counted(Effect.succeed("t"))
        const primary = Effect.never.pipe(Fallback.orElse("t", () => last.effect, { takes: "all" }))
        const later = Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.never),
          Fallback.orElse("t", () => last.effect, { takes: "all" })
        )
        for (const effect of [primary, later]) {
          const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
          yield* Fiber.interrupt(fiber)
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        }
        const self = yield* Effect.exit(
          Effect.failCause(Cause.combine(Cause.fail(new Busy()), Cause.interrupt(1))).pipe(
            Fallback.orElse("t", () => last.effect, { takes: "all" })
          )
        )
        assert.isTrue(Exit.hasInterrupts(self))
        assert.strictEqual(yield* last.calls, 0)
      }))

    it.effect("stops the chain at whatever step it is interrupted", () =>
      interruptEverywhere({
        arrange: Effect.sync(() => {
          const log: Array<string> = []
          const slow = (label: string) =>
            Effect.sync(() => log.push(label)).pipe(
              Effect.andThen(Effect.sleep("1 second")),
              Effect.andThen(Effect.fail(new Busy())),
              Effect.ensuring(Effect.sync(() => log.push(`${label} closed`)))
            )
          return {
            effect: slow("a").pipe(
              Fallback.orElse("b", () => slow("b")),
              Fallback.orElse("c", () => Effect.sync(() => log.push("c")), { takes: "all" })
            ),
            check: (exit) =>
              Effect.sync(() => {
                const started = log.filter((entry) => !entry.endsWith("closed"))
                assert.deepStrictEqual(started, ["a", "b", "c"].slice(0, started.length))
                assert.isTrue(started.every((label) => label === "c" || log.includes(`${label} closed`)))
                if (log.includes("b")) assert.isBelow(log.indexOf("a closed"), log.indexOf("b"))
                if (Exit.isFailure(exit)) assert.isTrue(Cause.hasInterruptsOnly(exit.cause))
              })
          }
        })
      }))

    it.effect("runs the finalizers of a failed primary before the fallback starts", () =>
      Effect.gen(function*() {
        const log: Array<string> = []
        yield* Effect.fail(new Busy()).pipe(
          Effect.ensuring(Effect.sync(() => log.push("closed"))),
          Fallback.orElse("t", () => Effect.sync(() => log.push("fallback")))
        )
        assert.deepStrictEqual(log, ["closed", "fallback"])
      }))
  })

  describe("skipped", () => {
    const refused = { ...busyAt("primary"), tag: "CircuitOpen", verdict: "Rejected" as const, skipped: true }

    it.effect("says of a step whose circuit is open that it was skipped, and not that it failed", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* breaker.isolate("model")
        const large = yield* counted(Effect.succeed("outline"))
        const { attributes, exit } = yield* inSpan(
          large.effect.pipe(
            CircuitBreaker.protect("model"),
            Fallback.orElse("smaller model", () => Effect.fail(new Busy())),
            Fallback.orElse("template", () => Effect.succeed("hello")),
            Effect.provideService(Telemetry.Listener, (event) => {
              if (event._tag === "FallbackUsed") events.push(event)
            })
          )
        )
        const answer = yield* exit
        assert.strictEqual(yield* large.calls, 0)
        assert.isTrue(answer.degraded)
        assert.deepStrictEqual(answer.errors.map(({ label, skipped }) => [label, skipped]), [
          ["primary", true],
          ["smaller model", false]
        ])
        assert.include(answer.errors[0]?.message, "sent nothing")
        assert.deepStrictEqual(events, [
          { _tag: "FallbackUsed", source: "template", failed: ["smaller model"], skipped: ["primary"] }
        ])
        assert.deepStrictEqual(attributes, {
          "fallback.source": "template",
          "fallback.degraded": true,
          "fallback.failed": ["smaller model"],
          "fallback.skipped": ["primary"]
        })
      }).pipe(Effect.provide(CircuitBreaker.layer())))

    it.effect("says so of a part as well", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const all = yield* Fallback.partial({
          news: Effect.fail({ [Fault.verdictOf]: Fault.rejected() }),
          stocks: Effect.fail(new Busy()),
          weather: Effect.succeed("sunny")
        }).pipe(Effect.provideService(Telemetry.Listener, (event) => void events.push(event)))
        assert.deepStrictEqual(all.unavailable.map(({ label, skipped }) => [label, skipped]), [
          ["news", true],
          ["stocks", false]
        ])
        assert.deepStrictEqual(events, [
          { _tag: "FallbackUsed", source: "partial", failed: ["stocks"], skipped: ["news"] }
        ])
      }))

    it.effect("reads a record of before, which does not say what was skipped, by its verdict", () =>
      Effect.gen(function*() {
        const { skipped: _, ...older } = refused
        const { skipped: __, ...failed } = busyAt("second")
        const decode = Schema.decodeUnknownEffect(Fallback.AnswerSchema(Schema.String, ["primary", "template"]))
        const answer = yield* decode({ value: "hello", source: "template", degraded: true, errors: [older, failed] })
        assert.deepStrictEqual(answer.errors, [refused, busyAt("second")])
      }))
  })

  describe("primary and chain", () => {
    it.effect("labels the first step, succeeding or failing", () =>
      Effect.gen(function*() {
        const call = (effect: Effect.Effect<number, Busy>) =>
          effect.pipe(Fallback.primary("large"), Fallback.orElse("small", () => Effect.succeed(0)))
        assert.deepStrictEqual(fields(yield* call(Effect.succeed(1))), {
          value: 1,
          source: "large",
          degraded: false,
          errors: []
        })
        assert.deepStrictEqual((yield* call(Effect.fail(new Busy()))).errors, [busyAt("large")])
      }))

    it.effect("walks the steps in order, each with its own takes", () =>
      Effect.gen(function*() {
        const small = yield* counted(Effect.succeed("small"))
        const answer = yield* Fallback.chain(
          Fallback.step("large", Effect.fail(new Broken({ at: "large" }))),
          Fallback.step("small", small.effect),
          Fallback.step("mirror", Effect.fail(new Busy()), { takes: ["Broken"] }),
          Fallback.step("template", Effect.succeed("hello"), { takes: "all" })
        )
        assert.strictEqual(yield* small.calls, 0)
        assert.deepStrictEqual(fields(answer), {
          value: "hello",
          source: "template",
          degraded: true,
          errors: [
            { label: "large", tag: "Broken", message: "broken at large", verdict: "Permanent", skipped: false },
            busyAt("mirror")
          ]
        })
      }))

    it.effect("has one entry for each step, whatever is inside of it", () =>
      Effect.gen(function*() {
        const inner = Effect.fail(new Busy()).pipe(
          Fallback.primary("inner"),
          Fallback.orElse("inner too", () => Effect.fail(new Busy()))
        )
        const within = Effect.as(inner, "unpacked")
        const chained = yield* Fallback.chain(Fallback.step("a", within), Fallback.step("b", Effect.succeed("b")))
        assert.deepStrictEqual(chained.errors, [busyAt("a")])
        const labelled = yield* within.pipe(Fallback.primary("a"), Fallback.orElse("b", () => Effect.succeed("b")))
        assert.deepStrictEqual(labelled.errors, [busyAt("a")])
        const later = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("a", () => within),
          Fallback.orElse("b", () => Effect.succeed("b"))
        )
        assert.deepStrictEqual(later.errors, [busyAt("primary"), busyAt("a")])
        const parts = yield* Fallback.partial({ x: inner, y: Effect.fail(new Busy()) }).pipe(
          Fallback.orElse("b", () => Effect.succeed("b"))
        )
        assert.deepStrictEqual(parts.errors, [busyAt("primary")])
      }))

    it("refuses two steps of one label", () => {
      const again = Fallback.step("a", Effect.succeed(1))
      assert.throws(
        () => Fallback.chain(again, Fallback.step("b", Effect.void), again),
        /option "label" is "a", expected/
      )
    })

    it.effect("of one step is that step, labelled", () =>
      Effect.gen(function*() {
        const answer = yield* Fallback.chain(Fallback.step("only", Effect.succeed(1)))
        assert.deepStrictEqual(fields(answer), { value: 1, source: "only", degraded: false, errors: [] })
      }))
  })

  describe("partial", () => {
    it.effect("collects what worked and lists the rest, whatever the verdict", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const { attributes, exit } = yield* inSpan(
          Fallback.partial({
            news: Effect.fail(new Busy()),
            weather: Effect.succeed("sunny"),
            stocks: Effect.fail(new Broken({ at: "exchange" })),
            ["__proto__"]: Effect.succeed("a key like any other")
          }).pipe(Effect.provideService(Telemetry.Listener, (event) => void events.push(event)))
        )
        assert.deepStrictEqual(
          exit,
          Exit.succeed({
            available: { weather: "sunny", ["__proto__"]: "a key like any other" },
            unavailable: [
              busyAt("news"),
              { label: "stocks", tag: "Broken", message: "broken at exchange", verdict: "Permanent", skipped: false }
            ]
          })
        )
        assert.deepStrictEqual(attributes, { "fallback.unavailable": ["news", "stocks"] })
        assert.deepStrictEqual(events, [{
          _tag: "FallbackUsed",
          source: "partial",
          failed: ["news", "stocks"],
          skipped: []
        }])
      }))

    it.effect("is silent when everything worked", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const all = yield* Fallback.partial({ a: Effect.succeed(1), b: Effect.succeed(2) }).pipe(
          Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
        )
        assert.deepStrictEqual(all, { available: { a: 1, b: 2 }, unavailable: [] })
        assert.deepStrictEqual(events, [])
      }))

    it.effect("fails with the first part's failure when nothing worked, so that the next step answers", () =>
      Effect.gen(function*() {
        const nothing = Fallback.partial({ a: Effect.fail(new Busy()), b: Effect.fail(new Odd({ n: 1 })) })
        assert.deepStrictEqual(yield* Effect.flip(nothing), new Busy())
        const answer = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("parts", () => nothing),
          Fallback.orElse("template", () => Effect.succeed("hello"))
        )
        assert.deepStrictEqual(answer.errors, [busyAt("primary"), busyAt("parts")])
      }))

    it.effect("runs the parts side by side when asked, and interrupts them all", () =>
      Effect.gen(function*() {
        let interrupted = 0
        const never = Effect.never.pipe(Effect.onInterrupt(() => Effect.sync(() => interrupted++)))
        const waiting = yield* Effect.forkChild(
          Fallback.partial({ a: never, b: never }, { concurrency: "unbounded" }),
          {
            startImmediately: true
          }
        )
        yield* Fiber.interrupt(waiting)
        assert.strictEqual(interrupted, 2)
        const bug = yield* Effect.exit(
          Fallback.partial({ a: never, b: Effect.andThen(Effect.yieldNow, Effect.die("bug")) }, { concurrency: 2 })
        )
        assert.isTrue(Exit.hasDies(bug))
        assert.strictEqual(interrupted, 3)
      }))
  })

  describe("provenance", () => {
    it.effect("emits FallbackUsed once, and nothing when the primary answers", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("second", () => Effect.fail(new Busy())),
          Fallback.orElse("third", () => Effect.succeed(3)),
          Fallback.orElse("fourth", () => Effect.succeed(4)),
          Effect.andThen(Effect.succeed(1).pipe(Fallback.orElse("second", () => Effect.succeed(2)))),
          Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
        )
        assert.deepStrictEqual(events, [
          { _tag: "FallbackUsed", source: "third", failed: ["primary", "second"], skipped: [] }
        ])
      }))

    it.effect("notes the source in the span around", () =>
      Effect.gen(function*() {
        const primary = yield* inSpan(Effect.succeed(1).pipe(Fallback.orElse("t", () => Effect.succeed(2))))
        assert.deepStrictEqual(primary.attributes, { "fallback.source": "primary", "fallback.degraded": false })
        const degraded = yield* inSpan(Effect.fail(new Busy()).pipe(Fallback.orElse("t", () => Effect.succeed(2))))
        assert.deepStrictEqual(degraded.attributes, {
          "fallback.source": "t",
          "fallback.degraded": true,
          "fallback.failed": ["primary"],
          "fallback.skipped": []
        })
        const failed = yield* inSpan(Effect.fail(new Busy()).pipe(Fallback.orElse("t", () => Effect.fail(new Busy()))))
        assert.deepStrictEqual(failed.attributes, { "fallback.failed": ["primary", "t"], "fallback.skipped": [] })
        assert.isTrue(Exit.isFailure(failed.exit))
      }))

    it.effect("fails with the last step's own error, as it was", () =>
      Effect.gen(function*() {
        const error = yield* Effect.fail(new Busy()).pipe(
          Fallback.orElse("t", () => Effect.fail(new Broken({ at: "t" }))),
          Effect.flip
        )
        assert.deepStrictEqual(error, new Broken({ at: "t" }))
      }))
  })

  describe("AnswerSchema", () => {
    const Answered = Fallback.AnswerSchema(Schema.Struct({ at: Schema.Date }), ["primary", "template"])
    const outline = (effect: Effect.Effect<{ readonly at: Date }, Busy>) =>
      effect.pipe(Fallback.orElse("template", () => Effect.succeed({ at: new Date(0) })))

    it.effect("carries an answer through JSON and back, still an answer", () =>
      Effect.gen(function*() {
        const codec = Schema.fromJsonString(Schema.toCodecJson(Answered))
        for (const effect of [outline(Effect.fail(new Busy())), outline(Effect.succeed({ at: new Date(1) }))]) {
          const answer = yield* effect
          const back = yield* Effect.flatMap(Schema.encodeEffect(codec)(answer), Schema.decodeEffect(codec))
          assert.deepStrictEqual(back, answer)
          assert.isTrue(Fallback.isAnswer(back))
          const again = yield* Effect.succeed(back).pipe(Fallback.orElse("other", () => Effect.succeed("other")))
          assert.strictEqual(again.source, answer.source)
        }
      }))

    it.effect("refuses an unknown source, and what is no answer", () =>
      Effect.gen(function*() {
        const record = { value: { at: new Date(0) }, source: "cache", degraded: true, errors: [] }
        assert.isTrue(Option.isNone(Schema.decodeUnknownOption(Answered)(record)))
        assert.isFalse(Schema.is(Answered)({ ...record, source: "template" }))
        const stranger = yield* Fallback.primary(Effect.succeed({ at: new Date(0) }), "cache")
        assert.isFalse(Schema.is(Answered)(stranger))
        const other = yield* Fallback.primary(Effect.succeed("text"), "primary")
        assert.isFalse(Schema.is(Answered)(other))
      }))
  })

  it.effect("starts the fallback only after the primary has failed", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<never, Busy>()
      const that = yield* counted(Effect.succeed(2))
      const fiber = yield* Deferred.await(gate).pipe(
        Fallback.orElse("t", () => that.effect),
        Effect.forkChild({ startImmediately: true })
      )
      assert.strictEqual(yield* that.calls, 0)
      yield* Deferred.fail(gate, new Busy())
      assert.strictEqual((yield* Fiber.join(fiber)).source, "t")
    }))
})
