import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Layer, Logger, References, Scope } from "effect"
import { Backoff, CircuitBreaker, Fallback, Fault, Retry, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"

const down = { [Fault.verdictOf]: Fault.transient }

const listening = (listener: (event: Telemetry.Event) => void) => Effect.provideService(Telemetry.Listener, listener)

/** The effect's exit with a listener that always throws, and the warnings that came of it. */
const withThrowing = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const warnings: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      warnings.push(`${logLevel}: ${String(Array.isArray(message) ? message[0] : message)}`)
    })
    return self.pipe(
      listening(() => {
        throw new Error("listener")
      }),
      Effect.exit,
      Effect.provide(Logger.layer([logger])),
      Effect.map((exit) => ({ exit, warnings }))
    )
  })

const warning = (tag: Telemetry.Event["_tag"]) => `Warn: The Telemetry listener threw at ${tag}; the call goes on`

describe("Telemetry", () => {
  it.effect("builds no event where nobody listens", () =>
    Telemetry.emit(() => {
      throw new Error("built")
    }))

  it.effect("emitIn tells the listener at once", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      const context = yield* Effect.context<never>().pipe(listening((event) => heard.push(event._tag)))
      Telemetry.emitIn(context, () => ({ _tag: "RunChanged", runId: "r", status: "running" }))
      assert.deepStrictEqual(heard, ["RunChanged"])
    }))

  it.live("a listener that rejects changes the outcome of no call and is named in a warning", () =>
    Effect.gen(function*() {
      const warned = yield* Deferred.make<string>()
      const logger = Logger.make(({ message }) => {
        Deferred.doneUnsafe(warned, Effect.succeed(String(Array.isArray(message) ? message[0] : message)))
      })
      const program = Effect.fail(down).pipe(
        Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 1 })),
        listening(async () => {
          throw new Error("listener")
        }),
        Effect.exit,
        Effect.provide(Logger.layer([logger]))
      )
      assert.deepStrictEqual(yield* program, Exit.fail(down))
      assert.include(yield* Deferred.await(warned), "The Telemetry listener threw at RetryGaveUp")
    }))

  const hit: Telemetry.Event = { _tag: "IdempotencyHit", key: "k", joined: false }
  const emitting = Telemetry.emit(() => hit)

  /** A layer that writes down its name for each event that it hears. */
  const naming = (heard: Array<string>, name: string) => Telemetry.layerListener(() => heard.push(name))

  it.effect("listen adds a listener to those that are there", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      yield* emitting.pipe(
        Telemetry.listen(() => heard.push("inner")),
        listening(() => heard.push("outer"))
      )
      assert.deepStrictEqual(heard, ["outer", "inner"])
    }))

  it.effect("layers of listeners that are merged, nested or provided to one another all listen", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      const named = (name: string) => naming(heard, name)
      const told = <E, R>(self: Effect.Effect<void, E, R>) =>
        Effect.map(self, () => heard.splice(0).toSorted().join(" "))
      assert.strictEqual(
        yield* told(Effect.provide(emitting, Layer.mergeAll(named("a"), named("b"), named("c")))),
        "a b c"
      )
      assert.strictEqual(yield* told(emitting.pipe(Effect.provide(named("a")), Effect.provide(named("b")))), "a b")
      assert.strictEqual(yield* told(Effect.provide(emitting, Layer.provideMerge(named("a"), named("b")))), "a b")
      const deep = emitting.pipe(
        Effect.provide(Layer.merge(named("a"), named("b"))),
        Effect.provide(Layer.merge(named("c"), named("d"))),
        listening(() => heard.push("e"))
      )
      assert.strictEqual(yield* told(deep), "a b c d e")
      assert.strictEqual(yield* told(Effect.provide(emitting, [named("a"), named("b")])), "a b")
    }))

  it.effect("a layer's listener hears nothing from outside of it, and nothing after it", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      const inner = Effect.provide(emitting, naming(heard, "inner"))
      yield* Effect.andThen(inner, emitting).pipe(Effect.provide(naming(heard, "outer")))
      assert.deepStrictEqual(heard, ["outer", "inner", "outer"])
      heard.length = 0
      yield* Effect.gen(function*() {
        const scope = yield* Scope.make()
        yield* Layer.buildWithScope(naming(heard, "gone"), scope)
        yield* emitting
        yield* Scope.close(scope, Exit.void)
        yield* emitting
      }).pipe(Effect.provide(naming(heard, "there")))
      assert.deepStrictEqual(heard, ["there", "there"])
    }))

  it.effect("a listener that throws keeps no other from hearing", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      const { exit, warnings } = yield* withThrowing(Effect.provide(emitting, naming(heard, "other")))
      assert.deepStrictEqual([exit, warnings, heard], [Exit.void, [warning("IdempotencyHit")], ["other"]])
    }))

  it.effect("an effect that a listener gives back is run in the call, and what it fails with is a warning", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const noting = () => Effect.map(References.CurrentLogAnnotations, (annotations) => void seen.push(annotations))
      yield* emitting.pipe(Effect.annotateLogs({ agent: "a" }), listening(noting))
      assert.deepStrictEqual(seen, [{ agent: "a" }])
      const warnings: Array<string> = []
      const logger = Logger.make(({ message }) =>
        void warnings.push(String(Array.isArray(message) ? message[0] : message))
      )
      yield* emitting.pipe(listening(() => Effect.fail("no")), Effect.provide(Logger.layer([logger])))
      assert.deepStrictEqual(warnings, ["The Telemetry listener threw at IdempotencyHit; the call goes on"])
    }))

  describe("a listener that throws changes the outcome of no call and is named in a warning", () => {
    it.effect("of a circuit, whose count it is no part of", () =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.make({
          trip: CircuitBreaker.consecutive(1),
          openFor: "1 second",
          successThreshold: 1
        })
        const call = <A, E>(self: Effect.Effect<A, E>) => withThrowing(breaker.protect("k")(self))
        assert.deepStrictEqual(yield* call(Effect.fail(down)), {
          exit: Exit.fail(down),
          warnings: [warning("CircuitChanged")]
        })
        const refused = yield* call(Effect.void)
        assert.deepStrictEqual(refused.warnings, [warning("CircuitRejected")])
        assert.instanceOf(yield* Effect.flip(refused.exit), CircuitBreaker.CircuitOpen)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* call(Effect.succeed("ok")), {
          exit: Exit.succeed("ok"),
          warnings: [warning("CircuitChanged"), warning("CircuitChanged")]
        })
        assert.strictEqual((yield* breaker.state("k"))._tag, "Closed")
      }))

    it.effect("of Retry", () =>
      Effect.gen(function*() {
        const policy = Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 })
        assert.deepStrictEqual(yield* withThrowing(Retry.apply(Effect.fail(down), policy)), {
          exit: Exit.fail(down),
          warnings: [warning("RetryScheduled"), warning("RetryGaveUp")]
        })
      }))

    it.effect("of Fallback", () =>
      Effect.gen(function*() {
        const answer = Effect.fail(down).pipe(
          Fallback.orElse("template", () => Effect.succeed("text")),
          Effect.map(({ value }) => value)
        )
        assert.deepStrictEqual(yield* withThrowing(answer), {
          exit: Exit.succeed("text"),
          warnings: [warning("FallbackUsed")]
        })
      }))
  })
})
