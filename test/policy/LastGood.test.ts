import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Context,
  DateTime,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Result,
  Schema
} from "effect"
import { CircuitBreaker, Fallback, Fault, LastGood, Telemetry } from "effect-resilience"
import { KeyValueStore } from "effect/persistence"
import { TestClock } from "effect/testing"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", {}) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}
class Broken extends Schema.TaggedError<Broken>("test/Broken")("Broken", {}) {
  readonly [Fault.verdictOf] = Fault.permanent
}

const Forecast = Schema.Struct({ sky: Schema.String, at: Schema.Date })
const forecasts = LastGood.slot("forecast", Forecast)
const forecast = (sky: string): typeof Forecast.Type => ({ sky, at: new Date(0) })
const good = (sky: string, key = "Zurich") => LastGood.remember(Effect.succeed(forecast(sky)), forecasts, key)
const busy: Effect.Effect<typeof Forecast.Type, Busy> = Effect.fail(new Busy())

const sky = (key = "Zurich", options?: LastGood.RecallOptions) =>
  Effect.map(LastGood.recall(forecasts, key, options), (aged) => aged.value.sky)

const reason = (key = "Zurich", options?: LastGood.RecallOptions) =>
  Effect.map(
    Effect.flip(LastGood.recall(forecasts, key, options)),
    (error) => error._tag === "NoLastGood" ? error.reason : error._tag
  )

/** A call that begins now and ends when it is told. */
const begin = (key = "Zurich") =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<typeof Forecast.Type, Busy>()
    const fiber = yield* Deferred.await(gate).pipe(
      LastGood.remember(forecasts, key),
      Effect.forkChild({ startImmediately: true })
    )
    return {
      fiber,
      end: (how: string) => Effect.andThen(Deferred.succeed(gate, forecast(how)), Fiber.join(fiber))
    }
  })

const warnings = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const messages: Array<string> = []
    const logger = Logger.make(({ message }) => {
      messages.push(String(Array.isArray(message) ? message[0] : message))
    })
    const result = yield* Effect.result(Effect.provide(self, Logger.layer([logger])))
    return { result, messages }
  })

const serving = (key = "Zurich", options?: LastGood.OrElseOptions) => LastGood.orElse(busy, forecasts, key, options)

describe("LastGood", () => {
  describe("remember and recall", () => {
    it.effect("gives the last success of a key with its age, and keeps the keys and the slots apart", () =>
      Effect.gen(function*() {
        yield* TestClock.setTime(1_000)
        yield* good("sunny")
        yield* good("rain", "Bern")
        yield* Effect.succeed("a text").pipe(LastGood.remember(LastGood.slot("texts", Schema.String), "Zurich"))
        yield* TestClock.adjust("2 hours")
        const aged = yield* LastGood.recall(forecasts, "Zurich")
        assert.deepStrictEqual(
          aged,
          new LastGood.Aged({
            value: forecast("sunny"),
            key: "Zurich",
            exact: true,
            asOf: DateTime.makeUnsafe(1_000),
            age: Duration.hours(2)
          })
        )
        assert.isTrue(LastGood.isAged(aged))
        assert.strictEqual(yield* sky("Bern"), "rain")
        assert.strictEqual(yield* reason("Basel"), "Nothing")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("gives the value back as it is, and a failure changes nothing", () =>
      Effect.gen(function*() {
        const value = forecast("sunny")
        assert.strictEqual(yield* Effect.succeed(value).pipe(LastGood.remember(forecasts, "Zurich")), value)
        assert.deepStrictEqual(yield* Effect.flip(LastGood.remember(busy, forecasts, "Zurich")), new Busy())
        assert.isTrue(Exit.hasDies(yield* Effect.exit(LastGood.remember(Effect.die("bug"), forecasts, "Zurich"))))
        assert.strictEqual(yield* sky(), "sunny")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("gives out what went in, whatever became of the object since", () =>
      Effect.gen(function*() {
        const lists = LastGood.slot("lists", Schema.Array(Schema.String))
        const list = ["a"]
        yield* Effect.succeed(list).pipe(LastGood.remember(lists, "k"))
        list.push("b")
        assert.deepStrictEqual((yield* LastGood.recall(lists, "k")).value, ["a"])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("forgets on demand", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        yield* LastGood.forget(forecasts, "Zurich")
        assert.strictEqual(yield* reason(), "Nothing")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("serves nothing older than maxAge, and at exactly maxAge still", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* sky("Zurich", { maxAge: "1 hour" }), "sunny")
        yield* TestClock.adjust("1 millis")
        const error = yield* Effect.flip(LastGood.recall(forecasts, "Zurich", { maxAge: "1 hour" }))
        assert.deepStrictEqual(
          error,
          new LastGood.NoLastGood({
            slot: "forecast",
            key: "Zurich",
            reason: "TooOld",
            age: Duration.millis(3_600_001)
          })
        )
        assert.include(error.message, "1h 1ms old")
        assert.strictEqual(yield* sky(), "sunny")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("counts the age from the beginning of the call, and by elapsed time", () =>
      Effect.gen(function*() {
        const call = yield* begin()
        yield* TestClock.adjust("1 minute")
        yield* call.end("sunny")
        assert.deepStrictEqual((yield* LastGood.recall(forecasts, "Zurich")).age, Duration.minutes(1))
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("a schema that does not accept what is there is a typed failure, and no defect", () =>
      Effect.gen(function*() {
        yield* Effect.succeed("no forecast").pipe(LastGood.remember(LastGood.slot("forecast", Schema.String), "Zurich"))
        const error = yield* Effect.flip(LastGood.recall(forecasts, "Zurich"))
        assert.strictEqual(error._tag, "NoLastGood")
        assert.include(error.message, "cannot be read")
        assert.strictEqual((yield* Fault.classify(error))._tag, "Malformed")
        yield* good("sunny")
        assert.strictEqual(yield* sky(), "sunny")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("what cannot be written does not fail the call, and a warning names it", () =>
      Effect.gen(function*() {
        const short = LastGood.slot("short", Schema.String.check(Schema.isMaxLength(3)))
        const { messages, result } = yield* warnings(LastGood.remember(Effect.succeed("too long"), short, "k"))
        assert.deepStrictEqual(result, Result.succeed("too long"))
        assert.deepStrictEqual(messages, ["LastGood could not remember the answer for \"short/k\""])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("never keeps a degraded answer", () =>
      Effect.gen(function*() {
        const Answered = Fallback.AnswerSchema(Schema.String, ["primary", "template"])
        const answers = LastGood.slot("answers", Answered)
        const call = (model: Effect.Effect<string, Busy>) =>
          model.pipe(
            Fallback.orElse("template", () => Effect.succeed("hello")),
            LastGood.remember(answers, "k")
          )
        yield* call(Effect.succeed("well said"))
        assert.isTrue((yield* call(Effect.fail(new Busy()))).degraded)
        const aged = yield* LastGood.recall(answers, "k")
        assert.strictEqual(aged.value.value, "well said")
      }).pipe(Effect.provide(LastGood.layer())))
  })

  describe("calls at the same time", () => {
    it.effect("of which the one that began later is kept, whichever ends first", () =>
      Effect.gen(function*() {
        const older = yield* begin()
        yield* TestClock.adjust("1 second")
        const newer = yield* begin()
        yield* newer.end("newer")
        yield* older.end("older")
        assert.strictEqual(yield* sky(), "newer")
        const third = yield* begin()
        yield* TestClock.adjust("1 second")
        const fourth = yield* begin()
        yield* third.end("third")
        assert.strictEqual(yield* sky(), "third")
        yield* fourth.end("fourth")
        assert.strictEqual(yield* sky(), "fourth")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("an interrupted one changes nothing", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        const call = yield* begin()
        yield* Fiber.interrupt(call.fiber)
        assert.strictEqual(yield* sky(), "sunny")
      }).pipe(Effect.provide(LastGood.layer())))
  })

  describe("similar", () => {
    const startsAlike = (wanted: string, candidates: ReadonlyArray<string>) =>
      candidates.find((key) => key.startsWith(wanted.slice(0, 3)))

    it.effect("serves the answer of a key that the user finds similar, and says which", () =>
      Effect.gen(function*() {
        yield* good("sunny", "Zurich North")
        const aged = yield* LastGood.recall(forecasts, "Zurich", { similar: startsAlike })
        assert.deepStrictEqual([aged.value.sky, aged.key, aged.exact], ["sunny", "Zurich North", false])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("is asked only where the key itself has nothing young enough, with the other keys, the newest first", () =>
      Effect.gen(function*() {
        const asked: Array<ReadonlyArray<string>> = []
        const similar = (_: string, candidates: ReadonlyArray<string>) => {
          asked.push(candidates)
          return candidates[0]
        }
        yield* Effect.succeed("t").pipe(LastGood.remember(LastGood.slot("texts", Schema.String), "Zug"))
        yield* good("old")
        yield* good("fog", "Basel")
        assert.strictEqual(yield* sky("Zurich", { similar }), "old")
        yield* TestClock.adjust("2 hours")
        yield* good("rain", "Bern")
        assert.strictEqual(yield* sky("Zurich", { similar, maxAge: "1 hour" }), "rain")
        assert.deepStrictEqual(asked, [["Bern", "Basel"]])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("finds nothing in a key that there is not, and says of what is too old that it is", () =>
      Effect.gen(function*() {
        yield* good("old", "Bern")
        yield* TestClock.adjust("2 hours")
        assert.strictEqual(yield* reason("Zurich", { similar: () => "Atlantis" }), "Nothing")
        assert.strictEqual(yield* reason("Zurich", { similar: () => undefined }), "Nothing")
        const late = yield* Effect.flip(
          LastGood.recall(forecasts, "Zurich", { similar: () => "Bern", maxAge: "1 hour" })
        )
        const { age, key, reason: why } = late._tag === "NoLastGood" ? late : yield* Effect.die(late)
        assert.deepStrictEqual([why, key, age], ["TooOld", "Bern", Duration.hours(2)])
        yield* good("older", "Zurich")
        yield* TestClock.adjust("2 hours")
        const own = yield* Effect.flip(
          LastGood.recall(forecasts, "Zurich", { similar: () => "Bern", maxAge: "1 hour" })
        )
        assert.deepInclude(own, { reason: "TooOld", key: "Zurich", age: Duration.hours(2) })
      }).pipe(Effect.provide(LastGood.layer())))
  })

  describe("orElse", () => {
    it.effect("answers with the aged value, under its label, and keeps the failure", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        yield* good("sunny")
        yield* TestClock.adjust("5 minutes")
        const answer = yield* serving().pipe(
          Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
        )
        assert.strictEqual(answer.source, "last good")
        assert.isTrue(answer.degraded)
        assert.isTrue(LastGood.isAged(answer.value) && answer.value.value.sky === "sunny")
        assert.deepStrictEqual(answer.errors.map(({ label, tag }) => [label, tag]), [["primary", "Busy"]])
        assert.deepStrictEqual(events, [
          { _tag: "LastGoodServed", key: "forecast/Zurich", ageMillis: 300_000 },
          { _tag: "FallbackUsed", source: "last good", failed: ["primary"], skipped: [] }
        ])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("leaves a success alone", () =>
      Effect.gen(function*() {
        const answer = yield* good("sunny").pipe(LastGood.orElse(forecasts, "Zurich", { label: "cache" }))
        assert.deepStrictEqual([answer.source, answer.degraded], ["primary", false])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("fails with the error of the effect where there is nothing to serve, and was skipped then", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Effect.flip(serving()), new Busy())
        const answer = yield* serving().pipe(Fallback.orElse("template", () => Effect.succeed("no idea")))
        assert.strictEqual(answer.source, "template")
        assert.deepStrictEqual(answer.errors.map(({ label, skipped, tag }) => [label, tag, skipped]), [
          ["primary", "Busy", false],
          ["last good", "NoLastGood", true]
        ])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("takes what a fallback takes: no Permanent, unless it is told to", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        const broken: Effect.Effect<typeof Forecast.Type, Broken> = Effect.fail(new Broken())
        assert.deepStrictEqual(yield* Effect.flip(LastGood.orElse(broken, forecasts, "Zurich")), new Broken())
        const answer = yield* LastGood.orElse(broken, forecasts, "Zurich", { takes: "all" })
        assert.strictEqual(answer.source, "last good")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("is one step among others, and serves while a circuit is open", () =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        const ask = (how: Effect.Effect<typeof Forecast.Type, Busy>) =>
          how.pipe(
            CircuitBreaker.protect("weather"),
            LastGood.remember(forecasts, "Zurich"),
            Fallback.orElse("other provider", () => busy),
            LastGood.orElse(forecasts, "Zurich")
          )
        yield* ask(Effect.succeed(forecast("sunny")))
        yield* breaker.isolate("weather")
        const answer = yield* ask(Effect.succeed(forecast("rain")))
        assert.isTrue(LastGood.isAged(answer.value) && answer.value.value.sky === "sunny")
        assert.deepStrictEqual(answer.errors.map(({ label, skipped }) => [label, skipped]), [
          ["primary", true],
          ["other provider", false]
        ])
      }).pipe(Effect.provide(LastGood.layer()), Effect.provide(CircuitBreaker.layer())))

    it.effect("warns of what cannot be read, and fails with the error of the effect", () =>
      Effect.gen(function*() {
        yield* Effect.succeed("no forecast").pipe(LastGood.remember(LastGood.slot("forecast", Schema.String), "Zurich"))
        const { messages, result } = yield* warnings(serving())
        assert.deepStrictEqual(result, Result.fail(new Busy()))
        assert.strictEqual(messages.length, 1)
        assert.include(messages[0], "cannot be read")
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("hands on a defect of the similarity", () =>
      Effect.gen(function*() {
        const similar = () => {
          throw new Error("a bug of the similarity")
        }
        const exit = yield* Effect.exit(serving("Zurich", { similar }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && !Cause.hasFails(exit.cause))
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("recall is a step of a chain too", () =>
      Effect.gen(function*() {
        const chain = Fallback.chain(
          Fallback.step("model", busy),
          Fallback.step("last good", LastGood.recall(forecasts, "Zurich")),
          Fallback.step("template", Effect.succeed("no idea"), { takes: "all" })
        )
        assert.strictEqual((yield* chain).source, "template")
        yield* good("sunny")
        assert.strictEqual((yield* chain).source, "last good")
      }).pipe(Effect.provide(LastGood.layer())))
  })

  describe("in memory", () => {
    it.effect("forgets after the time to live", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        yield* TestClock.adjust("24 hours")
        assert.strictEqual(yield* sky(), "sunny")
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* reason(), "Nothing")
        yield* good("rain", "Bern")
        assert.deepStrictEqual(yield* LastGood.LastGood.use((store) => store.keys("forecast")), ["Bern"])
      }).pipe(Effect.provide(LastGood.layer())))

    it.effect("never keeps more than maxEntries: the one unused for longest goes", () =>
      Effect.gen(function*() {
        for (const key of ["a", "b", "c"]) yield* good(key, key)
        yield* sky("a")
        yield* good("d", "d")
        const keys = yield* LastGood.LastGood.use((store) => store.keys("forecast"))
        assert.deepStrictEqual(keys, ["d", "a", "c"])
      }).pipe(Effect.provide(LastGood.layer({ maxEntries: 3 }))))

    it.effect("layerNoop remembers nothing", () =>
      Effect.gen(function*() {
        yield* good("sunny")
        assert.strictEqual(yield* reason(), "Nothing")
        assert.deepStrictEqual(yield* LastGood.LastGood.use((store) => store.keys("forecast")), [])
        yield* LastGood.forget(forecasts, "Zurich")
      }).pipe(Effect.provide(LastGood.layerNoop)))
  })

  describe("interruption", () => {
    for (
      const [name, layer] of [
        ["memory", LastGood.layer()],
        ["a KeyValueStore", LastGood.layerKeyValueStore().pipe(Layer.provide(KeyValueStore.layerMemory))]
      ] as const
    ) {
      const arrange = Effect.gen(function*() {
        const context = yield* Layer.build(Layer.fresh(layer))
        yield* Effect.provide(good("old"), context)
        const call = Effect.as(Effect.sleep("1 second"), forecast("new")).pipe(
          LastGood.remember(forecasts, "Zurich"),
          Effect.andThen(busy),
          LastGood.orElse(forecasts, "Zurich"),
          Effect.provide(context)
        )
        return { call, sky: Effect.provide(sky(), context) }
      })

      it.effect(`at every step leaves the old answer or the new one in ${name}, whole`, () =>
        interruptEverywhere({
          arrange: Effect.map(arrange, ({ call, sky }) => ({
            effect: call,
            check: (exit) =>
              Effect.gen(function*() {
                const now = yield* sky
                assert.include(["old", "new"], now)
                if (Exit.isSuccess(exit)) assert.strictEqual(now, "new")
              })
          }))
        }))

      it.effect(`from every source keeps the old answer in ${name}`, () =>
        everyCancelSource({
          after: "500 millis",
          arrange: Effect.map(arrange, ({ call, sky }) => ({
            effect: call,
            check: () => Effect.map(sky, (now) => assert.strictEqual(now, "old"))
          }))
        }))
    }
  })

  describe("options", () => {
    it.effect("that cannot work are refused when the guard is built", () =>
      Effect.gen(function*() {
        const refused = (layer: Layer.Layer<LastGood.LastGood>) =>
          Effect.map(Effect.exit(Effect.scoped(Layer.build(layer))), (exit) =>
            Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "")
        const kv = (options: LastGood.KeyValueStoreOptions) =>
          refused(LastGood.layerKeyValueStore(options).pipe(Layer.provide(KeyValueStore.layerMemory)))
        assert.include(yield* refused(LastGood.layer({ maxEntries: 0 })), "option \"maxEntries\" is 0")
        assert.include(yield* refused(LastGood.layer({ timeToLive: 0 })), "timeToLive")
        assert.include(yield* kv({ storeTimeout: Duration.infinity }), "storeTimeout")
        assert.include(yield* kv({ maxEntries: 0 }), "maxEntries")
        assert.throws(() =>
          LastGood.slot("", Schema.String), /LastGood.slot.*name/)
        assert.throws(() => LastGood.slot("a/b", Schema.String), /no slash/)
        assert.throws(() => LastGood.recall(forecasts, "k", { maxAge: NaN }), /maxAge/)
        assert.throws(() => LastGood.orElse(busy, forecasts, "k", { label: "" as "last good" }), /label/)
      }))

    it("refuses a slot whose answers hold a secret", () => {
      const Secret = Schema.Struct({ name: Schema.String, token: Schema.RedactedFromValue(Schema.String) })
      assert.throws(() => LastGood.slot("logins", Secret), /without a Redacted/)
      assert.throws(() => LastGood.slot("logins", Schema.Array(Schema.Redacted(Schema.String))), /logins/)
    })
  })

  it.effect("Aged goes through JSON and back", () =>
    Effect.gen(function*() {
      yield* good("sunny")
      yield* TestClock.adjust("1 minute")
      const codec = Schema.fromJsonString(Schema.toCodecJson(Fallback.AnswerSchema(
        Schema.Union([Forecast, LastGood.AgedSchema(Forecast)]),
        ["primary", "last good"]
      )))
      const answer = yield* serving()
      const back = yield* Effect.flatMap(Schema.encodeEffect(codec)(answer), Schema.decodeEffect(codec))
      assert.deepStrictEqual(back, answer)
      assert.isTrue(LastGood.isAged(back.value))
      assert.isFalse(Schema.is(LastGood.AgedSchema(Schema.String))(back.value))
    }).pipe(Effect.provide(LastGood.layer())))

  it.effect("a store of the user's own is used through its methods", () =>
    Effect.gen(function*() {
      const store = new Map<string, LastGood.Entry>()
      const mine = Context.make(LastGood.LastGood, {
        remember: (slot, key, entry) => Effect.sync(() => store.set(`${slot} ${key}`, entry)),
        recall: (slot, key) =>
          Effect.sync(() => {
            const entry = store.get(`${slot} ${key}`)
            return entry === undefined ? undefined : { ...entry, ageMillis: 7 }
          }),
        keys: () =>
          Effect.fail(new LastGood.LastGoodStoreError({ operation: "list", slot: "forecast", cause: "down" })),
        forget: () => Effect.void
      })
      yield* Effect.gen(function*() {
        yield* good("sunny")
        assert.deepStrictEqual((yield* LastGood.recall(forecasts, "Zurich")).age, Duration.millis(7))
        assert.strictEqual(yield* reason("Bern", { similar: () => undefined }), "LastGoodStoreError")
        const { messages, result } = yield* warnings(serving("Bern", { similar: () => undefined }))
        assert.deepStrictEqual(result, Result.fail(new Busy()))
        assert.include(messages[0], "failed to list")
      }).pipe(Effect.provide(mine))
    }))
})
