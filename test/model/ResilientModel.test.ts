import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Duration, Effect, Exit, Fiber, Layer, Option, Ref, Schema, Stream } from "effect"
import {
  AdaptiveLimit,
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  LastGood,
  Policy,
  Quota,
  ResilientModel,
  Telemetry
} from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError, LanguageModel, Model, Prompt, type Response, ResponseIdTracker, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { recordingTracer } from "../recordingTracer.ts"

const retry = { backoff: Backoff.constant({ delay: "1 second" }), maxAttempts: 3 }
const overloaded = ScriptedModel.fail(Fault.overloaded())
const permanent = ScriptedModel.fail(Fault.permanent)

const run = <A, E, R>(self: Effect.Effect<A, E, R>, forTime: Duration.Input = "1 hour") =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(self, { startImmediately: true })
    // in steps, so that whoever sleeps again after a step is woken in the next one
    yield* Effect.repeat(TestClock.adjust(Duration.divideUnsafe(Duration.fromInputUnsafe(forTime), 10)), { times: 9 })
    return yield* Fiber.join(fiber)
  })

const text = (prompt: Prompt.RawInput = "Hello?") => LanguageModel.generateText({ prompt })

/** The deltas of a stream, its parts, and how it ended. */
const streamed = <E, R>(parts: Stream.Stream<Response.AnyPart, E, R>) => {
  const seen: Array<Response.AnyPart> = []
  return Effect.map(
    Effect.exit(Stream.runForEach(parts, (part) => Effect.sync(() => seen.push(part)))),
    (exit) => ({
      seen,
      text: seen.map((part) => part.type === "text-delta" ? part.delta : "").join(""),
      error: Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined,
      exit
    })
  )
}

const stream = (prompt: Prompt.RawInput = "Hello?") => streamed(LanguageModel.streamText({ prompt }))

/** A model that answers by script, and what it was asked. */
const scripted = (script: ScriptedModel.Script) =>
  Effect.map(ScriptedModel.make(script), (context) => ({
    model: Context.get(context, LanguageModel.LanguageModel),
    requests: Context.get(context, ScriptedModel.Calls).requests
  }))

type Unremembered = Omit<ResilientModel.Options, "lastGood">

/** Runs with the guards of a policy around a script; the requests that the script has seen are its result's second half. */
const guarded = Effect.fnUntraced(function*<A, E, R, PE, PR>(
  effect: Effect.Effect<A, E, R>,
  script: ScriptedModel.Script,
  policy: Policy.StreamPolicy<PE, PR>,
  options?: Unremembered
) {
  const { model, requests } = yield* scripted(script)
  const careful = yield* ResilientModel.make(model, policy, options)
  const result = yield* Effect.exit(run(Effect.provideService(effect, LanguageModel.LanguageModel, careful)))
  return [result, yield* requests] as const
})

const Search = Tool.make("search", {
  parameters: Schema.Struct({ query: Schema.String }),
  success: Schema.String,
  failure: Schema.String
})
const Kit = Toolkit.make(Search)
const toolCall = ScriptedModel.toolCall({ id: "call_1", name: "search", params: { query: "x" } })

const withHandler = (handler: (query: string) => Effect.Effect<string, string>) =>
  Kit.pipe(Effect.provide(Kit.toLayer({ search: ({ query }) => handler(query) })))

const everything = Layer.mergeAll(Policy.layer, LastGood.layer())

describe("ResilientModel", () => {
  describe("generateText", () => {
    it.effect("is tried again with the same prompt", () =>
      Effect.gen(function*() {
        const [exit, requests] = yield* guarded(
          text("Why?"),
          [overloaded, "Because"],
          Policy.make({ name: "x", retry })
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value.text === "Because")
        assert.strictEqual(requests.length, 2)
        assert.deepStrictEqual(requests[0]?.prompt, requests[1]?.prompt)
      }))

    it.effect("fails with the provider's own error when the tries are over", () =>
      Effect.gen(function*() {
        const [exit, requests] = yield* guarded(
          Effect.flip(text()),
          () => overloaded,
          Policy.make({ name: "x", retry })
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value === overloaded)
        assert.strictEqual(requests.length, 3)
      }))

    it.effect("an answer without its finish part is malformed, and tried again", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "x", retry })
        const cut: ScriptedModel.Answer = [{ type: "text", text: "Once upon" }]
        const [exit] = yield* guarded(text(), [cut, "Whole"], policy)
        assert.isTrue(Exit.isSuccess(exit) && exit.value.text === "Whole")
        const [allowed] = yield* guarded(text(), [cut], policy, { requireFinish: false })
        assert.isTrue(Exit.isSuccess(allowed) && allowed.value.text === "Once upon")
        const [streamedCut] = yield* guarded(stream(), () => cut, policy)
        assert.isTrue(Exit.isSuccess(streamedCut))
        if (Exit.isSuccess(streamedCut)) {
          const { error, text } = streamedCut.value
          assert.strictEqual(text, "Once upon")
          assert.isDefined(error)
          assert.strictEqual((yield* Fault.classify(error))._tag, "Malformed")
        }
      }))

    it.effect("an option that asks for tools is asked for with them each time", () =>
      Effect.gen(function*() {
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const ask = LanguageModel.generateText({
          prompt: "Search",
          toolkit: kit,
          toolChoice: { tool: "search" },
          disableToolCallResolution: true
        })
        const [exit, requests] = yield* guarded(ask, [overloaded, toolCall], Policy.make({ name: "x", retry }))
        assert.isTrue(Exit.isSuccess(exit))
        assert.isTrue(Exit.isSuccess(exit) && exit.value.toolCalls.length === 1)
        for (const { toolChoice, tools } of requests) {
          assert.deepStrictEqual(toolChoice, { tool: "search" })
          assert.deepStrictEqual(tools.map(({ name }) => name), ["search"])
        }
        assert.strictEqual(requests.length, 2)
      }))
  })

  describe("tools that are run", () => {
    const policy = Policy.make({ name: "x", retry, bulkhead: { maxConcurrent: 1 }, circuit: { failures: 1 } })

    it.effect("run once, outside of the guards, also where the answer was asked for twice", () =>
      Effect.gen(function*() {
        const ran: Array<string> = []
        const held: Array<number> = []
        const bulkhead = yield* Bulkhead.Bulkhead
        const watched = yield* withHandler((query) =>
          Effect.gen(function*() {
            ran.push(query)
            held.push((yield* bulkhead.state("x")).running)
            return "found"
          })
        )
        const [exit, requests] = yield* guarded(
          LanguageModel.generateText({ prompt: "Search", toolkit: watched }),
          [ScriptedModel.fail(Fault.throttled("1 second")), toolCall],
          policy
        )
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) {
          assert.deepStrictEqual(exit.value.toolResults.map(({ result }) => result), ["found"])
          assert.deepStrictEqual(exit.value.content.map(({ type }) => type), ["tool-call", "finish", "tool-result"])
          assert.isTrue(Option.isSome(ResilientModel.provenance(exit.value.content)))
        }
        assert.deepStrictEqual(ran, ["x"])
        assert.deepStrictEqual(held, [0])
        assert.strictEqual(requests.length, 2)
        assert.deepStrictEqual(requests[1]?.tools.map(({ name }) => name), ["search"])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("a tool that fails is no failure of the provider", () =>
      Effect.gen(function*() {
        const kit = yield* withHandler(() => Effect.fail("no such index"))
        const [exit] = yield* guarded(
          Effect.flip(LanguageModel.generateText({ prompt: "Search", toolkit: kit })),
          [toolCall],
          policy
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value === "no such index")
        assert.strictEqual((yield* CircuitBreaker.state("x"))._tag, "Closed")
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("an answer that calls for a tool that there is not is asked for again", () =>
      Effect.gen(function*() {
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const unknown = ScriptedModel.toolCall({ id: "call_0", name: "delete", params: {} })
        const plain = Policy.make({ name: "x", retry })
        const [exit] = yield* guarded(
          LanguageModel.generateText({ prompt: "Search", toolkit: kit }),
          [unknown, toolCall],
          plain
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value.toolResults.length === 1)
        const [failed] = yield* guarded(
          Effect.flip(LanguageModel.generateText({ prompt: "Search", toolkit: kit })),
          () => unknown,
          plain
        )
        assert.isTrue(
          Exit.isSuccess(failed) && AiError.isAiError(failed.value) && failed.value.reason._tag === "ToolNotFoundError"
        )
      }))

    it.effect("in a stream: they start when the answer is whole, and not for one that breaks off", () =>
      Effect.gen(function*() {
        const ran: Array<string> = []
        const kit = yield* withHandler((query) =>
          Effect.sync(() => {
            ran.push(query)
            return "found"
          })
        )
        const ask = streamed(LanguageModel.streamText({ prompt: "Search", toolkit: kit }))
        const plain = Policy.make({ name: "x", retry })
        const [exit] = yield* guarded(ask, [overloaded, ScriptedModel.turn("Let me see", toolCall)], plain)
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) {
          assert.strictEqual(exit.value.text, "Let me see")
          assert.deepStrictEqual(
            exit.value.seen.map(({ type }) => type).slice(-3),
            ["tool-call", "tool-result", "finish"]
          )
        }
        assert.deepStrictEqual(ran, ["x"])
        const cut: ScriptedModel.Answer = [{ type: "text", text: "Let me see" }, toolCall, {
          type: "text",
          text: "and"
        }]
        const [broken] = yield* guarded(ask, [cut], plain)
        assert.isTrue(Exit.isSuccess(broken) && broken.value.error !== undefined)
        assert.deepStrictEqual(ran, ["x"])
      }))

    it.effect("an approved call is run once, before the answer is asked for", () =>
      Effect.gen(function*() {
        const ran: Array<string> = []
        const Careful = Tool.make("search", {
          parameters: Schema.Struct({ query: Schema.String }),
          success: Schema.String,
          needsApproval: true
        })
        const CarefulKit = Toolkit.make(Careful)
        const kit = yield* CarefulKit.pipe(Effect.provide(CarefulKit.toLayer({
          search: ({ query }) =>
            Effect.sync(() => {
              ran.push(query)
              return "found"
            })
        })))
        const prompt = Prompt.make([
          { role: "user", content: "Search" },
          {
            role: "assistant",
            content: [
              { type: "tool-call", id: "call_1", name: "search", params: { query: "x" }, providerExecuted: false },
              { type: "tool-approval-request", approvalId: "a1", toolCallId: "call_1" }
            ]
          },
          { role: "tool", content: [{ type: "tool-approval-response", approvalId: "a1", approved: true }] }
        ])
        for (const disableToolCallResolution of [false, true]) {
          ran.length = 0
          const [exit, requests] = yield* guarded(
            LanguageModel.generateText({ prompt, toolkit: kit, disableToolCallResolution }),
            [overloaded, "Found it"],
            Policy.make({ name: "x", retry })
          )
          assert.isTrue(Exit.isSuccess(exit) && exit.value.text === "Found it")
          assert.deepStrictEqual(ran, ["x"])
          assert.strictEqual(requests.length, 2)
          const last = requests[1]?.prompt.content.at(-1)
          assert.isTrue(last?.role === "tool" && last.content.some((part) => part.type === "tool-result"))
        }
      }))
  })

  describe("generateObject", () => {
    const Person = Schema.Struct({ name: Schema.String, born: Schema.DateTimeUtcFromString })
    const json = JSON.stringify({ name: "Ann", born: "1990-01-01T00:00:00.000Z" })

    it.effect("is tried again, what does not decode included", () =>
      Effect.gen(function*() {
        const [exit, requests] = yield* guarded(
          LanguageModel.generateObject({ prompt: "Who?", schema: Person, objectName: "person" }),
          [overloaded, "{}", json],
          Policy.make({ name: "x", retry })
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value.value.name === "Ann")
        assert.strictEqual(requests.length, 3)
        assert.isTrue(
          requests.every(({ responseFormat }) =>
            responseFormat.type === "json" && responseFormat.objectName === "person"
          )
        )
      }))

    it.effect("with tools that are run", () =>
      Effect.gen(function*() {
        const ran: Array<string> = []
        const kit = yield* withHandler((query) =>
          Effect.sync(() => {
            ran.push(query)
            return "found"
          })
        )
        const [exit, requests] = yield* guarded(
          LanguageModel.generateObject({ prompt: "Who?", schema: Person, toolkit: kit }),
          [overloaded, ScriptedModel.turn(json, toolCall)],
          Policy.make({ name: "x", retry })
        )
        assert.isTrue(Exit.isSuccess(exit) && exit.value.value.name === "Ann")
        assert.deepStrictEqual(ran, ["x"])
        assert.strictEqual(requests.length, 2)
        assert.strictEqual(requests[1]?.responseFormat.type, "json")
      }))
  })

  describe("streamText", () => {
    const breaking = (...parts: ReadonlyArray<Response.StreamPartEncoded>) =>
      LanguageModel.make({
        generateText: () => Effect.succeed([]),
        streamText: () => Stream.concat(Stream.fromIterable(parts, { chunkSize: 1 }), Stream.fail(overloaded))
      })

    it.effect("is tried again before its first part with content, and not after it", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "x", retry })
        const { model: whole } = yield* scripted(() => "Hello again")
        const early = yield* breaking({ type: "response-metadata", id: "r" }, { type: "text-start", id: "0" })
        const late = yield* breaking(
          { type: "text-start", id: "0" },
          { type: "text-delta", id: "0", delta: "Hel" }
        )
        const turns = (...models: ReadonlyArray<LanguageModel.LanguageModel>) => {
          let at = 0
          const next = () => models[Math.min(at++, models.length - 1)] ?? whole
          return {
            ...whole,
            streamText: ((options: never) => Stream.suspend(() => next().streamText(options))) as never
          } satisfies LanguageModel.LanguageModel
        }
        const ask = (model: LanguageModel.LanguageModel, options?: Unremembered) =>
          Effect.flatMap(
            ResilientModel.make(model, policy, options),
            (careful) => run(Effect.provideService(stream(), LanguageModel.LanguageModel, careful))
          )
        const again = yield* ask(turns(early, whole))
        assert.strictEqual(again.text, "Hello again")
        assert.isUndefined(again.error)
        assert.strictEqual(again.seen.filter(({ type }) => type === "text-start").length, 1)
        const broken = yield* ask(turns(late, whole))
        assert.strictEqual(broken.text, "Hel")
        assert.strictEqual(broken.error, overloaded)
        const buffered = yield* ask(turns(late, whole), { buffer: true })
        assert.strictEqual(buffered.text, "Hello again")
        assert.isUndefined(buffered.error)
      }))

    it.effect("its slots are free when the finish part is seen, and when the reader stops", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "x", bulkhead: { maxConcurrent: 1 }, quota: {}, limit: {} })
        const { model } = yield* scripted(() => "one two three")
        const careful = yield* ResilientModel.make(model, policy)
        const bulkhead = yield* Bulkhead.Bulkhead
        const limits = yield* AdaptiveLimit.AdaptiveLimit
        const running = Effect.gen(function*() {
          return [
            (yield* bulkhead.state("x")).running,
            (yield* limits.state("x")).running,
            (yield* Quota.state("x")).running
          ]
        })
        const seen: Array<unknown> = []
        yield* Stream.runForEach(careful.streamText({ prompt: "?" }), (part) =>
          Effect.gen(function*() {
            if (part.type === "finish" || part.type === "text-start") seen.push([part.type, yield* running])
          }))
        assert.deepStrictEqual(seen, [["text-start", [1, 1, 1]], ["finish", [0, 0, 0]]])
        yield* run(Stream.runDrain(Stream.take(careful.streamText({ prompt: "?" }), 1)))
        assert.deepStrictEqual(yield* running, [0, 0, 0])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("timeout is the time to the first part with content, stall the silence after it", () =>
      Effect.gen(function*() {
        const slow = (before: Duration.Input, after: Duration.Input) =>
          LanguageModel.make({
            generateText: () => Effect.succeed([]),
            streamText: () =>
              Stream.make<Array<Response.StreamPartEncoded>>({ type: "text-start", id: "0" }).pipe(
                Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep(before), {
                  type: "text-delta" as const,
                  id: "0",
                  delta: "Hel"
                }))),
                Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep(after), {
                  type: "text-delta" as const,
                  id: "0",
                  delta: "lo"
                })))
              )
          })
        const policy = Policy.make({ name: "x", timeout: "10 seconds" })
        const ask = Effect.fnUntraced(function*(before: Duration.Input, after: Duration.Input) {
          const careful = yield* ResilientModel.make(yield* slow(before, after), policy, { requireFinish: false })
          return yield* run(Effect.provideService(stream(), LanguageModel.LanguageModel, careful))
        })
        assert.strictEqual((yield* ask("9 seconds", "29 seconds")).text, "Hello")
        const late = yield* ask("11 seconds", 0)
        assert.deepStrictEqual(late.seen, [])
        assert.isDefined(late.error)
        assert.deepInclude(Option.getOrThrow(ResilientModel.guardError(late.error)), { _tag: "AttemptTimeout" })
        const silent = yield* ask(0, "31 seconds")
        assert.strictEqual(silent.text, "Hel")
        assert.isDefined(silent.error)
        assert.deepInclude(Option.getOrThrow(ResilientModel.guardError(silent.error)), { _tag: "Stalled" })
      }))

    for (const buffer of [false, true]) {
      it.effect(`signs of life count as no silence for 10 minutes (buffer: ${buffer})`, () =>
        Effect.gen(function*() {
          const delta = (delta: string) => Stream.make({ type: "text-delta" as const, id: "0", delta })
          const pings = (times: number) =>
            Stream.fromEffectDrain(
              Effect.repeat(Effect.andThen(Effect.sleep("20 seconds"), Deadline.beat), { times: times - 1 })
            )
          const thinking = (times: number) =>
            LanguageModel.make({
              generateText: () => Effect.succeed([]),
              streamText: () =>
                Stream.make<Array<Response.StreamPartEncoded>>({ type: "text-start", id: "0" }).pipe(
                  Stream.concat(delta("Hel")),
                  Stream.concat(pings(times)),
                  Stream.concat(delta("lo"))
                )
            })
          const ask = Effect.fnUntraced(function*(times: number) {
            const model = yield* thinking(times)
            const options = { requireFinish: false, buffer }
            const careful = yield* ResilientModel.make(model, Policy.make({ name: "x" }), options)
            const told = Stream.suspend(() => careful.streamText({ prompt: "Hello?" })).pipe(Deadline.stall())
            const fiber = yield* Effect.forkChild(streamed(told), { startImmediately: true })
            yield* Effect.repeat(TestClock.adjust("10 seconds"), { times: 70 })
            return yield* Fiber.join(fiber)
          })
          assert.strictEqual((yield* ask(29)).text, "Hello")
          const { error, text } = yield* ask(31)
          assert.strictEqual(text, buffer ? "" : "Hel")
          assert.isDefined(error)
          if (error?._tag === "AiError") {
            assert.deepInclude(Option.getOrThrow(ResilientModel.guardError(error)), {
              _tag: "Stalled",
              idle: Duration.minutes(10)
            })
          } else assert.deepInclude(error, { _tag: "Stalled", idle: Duration.minutes(10) })
        }))
    }
  })

  describe("errors of guards", () => {
    const ask = Effect.fnUntraced(function*<PE, PR>(policy: Policy.StreamPolicy<PE, PR>, busy = 0) {
      const { model } = yield* scripted(() => Effect.as(Effect.sleep("1 minute"), "late"))
      const careful = yield* ResilientModel.make(model, policy)
      for (let i = 0; i < busy; i++) {
        yield* Effect.forkChild(careful.generateText({ prompt: "?" }), { startImmediately: true })
      }
      const whole = yield* run(Effect.flip(careful.generateText({ prompt: "?" })), "30 seconds")
      const parts = yield* run(Effect.flip(Stream.runDrain(careful.streamText({ prompt: "?" }))), "30 seconds")
      return [whole, parts] as const
    })

    const cases: ReadonlyArray<
      readonly [
        string,
        Effect.Effect<readonly [AiError.AiError, AiError.AiError], unknown, Layer.Success<typeof everything>>,
        Fault.VerdictTag
      ]
    > = [
      ["BulkheadFull", ask(Policy.make({ name: "b", bulkhead: { maxConcurrent: 1, maxQueue: 0 } }), 1), "Rejected"],
      ["LimitExceeded", ask(Policy.make({ name: "l", limit: { initial: 1, max: 1, maxQueue: 0 } }), 1), "Rejected"],
      [
        "QuotaExceeded",
        ask(Policy.make({ name: "q", quota: { requests: { limit: 1, per: "1 hour" }, maxWait: "1 second" } }), 1),
        "Rejected"
      ],
      ["AttemptTimeout", ask(Policy.make({ name: "t", timeout: "5 seconds" })), "TimedOut"],
      ["DeadlineExceeded", ask(Policy.make({ name: "d", deadline: "5 seconds" })), "TimedOut"]
    ]

    for (const [tag, failing, verdict] of cases) {
      it.effect(`${tag} is an AiError that has lost nothing, also after a round trip through JSON`, () =>
        Effect.gen(function*() {
          for (const error of yield* failing) {
            const guard = Option.getOrThrow(ResilientModel.guardError(error))
            assert.strictEqual(guard._tag, tag)
            assert.deepStrictEqual(yield* Fault.classify(error), guard[Fault.verdictOf])
            assert.strictEqual((yield* Fault.classify(error))._tag, verdict)
            assert.include(error.message, guard.message)
            assert.strictEqual(error.isRetryable, Fault.isRetryable(guard[Fault.verdictOf]))
            const json = JSON.stringify(yield* Schema.encodeEffect(AiError.AiError)(error))
            const back = yield* Schema.decodeUnknownEffect(AiError.AiError)(JSON.parse(json))
            assert.deepStrictEqual(yield* Fault.classify(back), guard[Fault.verdictOf])
            assert.deepStrictEqual(Option.getOrThrow(ResilientModel.guardError(back)), guard)
          }
        }).pipe(Effect.provide(everything)))
    }

    it.effect("the verdict of a guard stands before a classifier of the user's", () =>
      Effect.gen(function*() {
        const [error] = yield* ask(Policy.make({ name: "b", bulkhead: { maxConcurrent: 1, maxQueue: 0 } }), 1)
        const verdict = yield* Fault.classify(error).pipe(
          Fault.withClassifier((error) => AiError.isAiError(error) ? Fault.transient : undefined)
        )
        assert.strictEqual(verdict._tag, "Rejected")
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("an error of a provider holds none", () =>
      Effect.sync(() => assert.isTrue(Option.isNone(ResilientModel.guardError(overloaded)))))
  })

  describe("keys", () => {
    const keysOf = Effect.fnUntraced(function*<E>(
      make: (policy: Policy.StreamPolicy<CircuitBreaker.CircuitOpen, CircuitBreaker.CircuitBreaker>) => Effect.Effect<
        LanguageModel.LanguageModel,
        E,
        CircuitBreaker.CircuitBreaker
      >,
      key?: string
    ) {
      const model = yield* make(Policy.make({ name: "careful", key, circuit: {} }))
      yield* Effect.exit(model.generateText({ prompt: "?" }))
      return (yield* CircuitBreaker.CircuitBreaker.use(({ states }) => states)).map(({ key }) => key)
    }, Effect.provide(CircuitBreaker.layer()))

    const failing = Effect.map(scripted(() => overloaded), ({ model }) => model)
    const of =
      (options?: Unremembered) =>
      (policy: Policy.StreamPolicy<CircuitBreaker.CircuitOpen, CircuitBreaker.CircuitBreaker>) =>
        Effect.flatMap(failing, (model) => ResilientModel.make(model, policy, options))

    it.effect("provider and model as said, else that of the policy", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* keysOf(of()), ["careful"])
        assert.deepStrictEqual(yield* keysOf(of(), "own"), ["own"])
        assert.deepStrictEqual(yield* keysOf(of({ provider: "p", modelName: "m" }), "own"), ["p/m"])
        assert.deepStrictEqual(yield* keysOf(of({ modelName: "m" })), ["m"])
        assert.deepStrictEqual(yield* keysOf(of({ provider: "p", key: "k" })), ["k"])
        assert.deepStrictEqual(yield* keysOf(of({ key: ({ method }) => method })), ["generateText"])
      }))

    it.effect("the names of effect/ai's Model, where there is one around", () =>
      Effect.gen(function*() {
        const around = Effect.provideContext(
          Context.make(Model.ProviderName, "anthropic").pipe(Context.add(Model.ModelName, "opus"))
        )
        assert.deepStrictEqual(yield* keysOf((policy) => of()(policy).pipe(around)), ["anthropic/opus"])
        assert.deepStrictEqual(yield* keysOf((policy) => of()(policy).pipe(around), "own"), ["own"])
      }).pipe(Effect.provide(CircuitBreaker.layer())))

    it.effect("each model of a fallback has its own", () =>
      Effect.gen(function*() {
        const keys = yield* keysOf((policy) =>
          Effect.flatMap(failing, (model) =>
            Effect.scoped(ResilientModel.makeFallback([
              { label: "a", model, policy },
              { label: "b", model, policy, provider: "p" },
              { label: "c", model: Model.make("q", "m", Layer.succeed(LanguageModel.LanguageModel, model)), policy }
            ])))
        )
        assert.deepStrictEqual(keys, ["careful/a", "p", "q/m"])
      }))

    it.effect("the span says which it was", () =>
      Effect.gen(function*() {
        const { spans, tracer } = recordingTracer()
        const { model } = yield* scripted(() => "Hi")
        const careful = yield* ResilientModel.make(model, Policy.make({ name: "x" }), { provider: "p", modelName: "m" })
        yield* careful.generateText({ prompt: "?" }).pipe(Effect.withTracer(tracer))
        yield* Stream.runDrain(careful.streamText({ prompt: "?" })).pipe(Effect.withTracer(tracer))
        for (const name of ["ResilientModel.generateText", "ResilientModel.streamText"]) {
          const span = spans.find((span) => span.name === name)
          assert.strictEqual(span?.attributes.get("resilient_model.key"), "p/m")
          assert.strictEqual(span?.attributes.get("gen_ai.provider.name"), "p")
          assert.strictEqual(span?.attributes.get("gen_ai.request.model"), "m")
        }
      }))
  })

  describe("quota", () => {
    const aDay = (limit: number) => ({ limit, per: "1 day" }) as const
    const limited = (script: ScriptedModel.Script, options?: Unremembered) =>
      Effect.gen(function*() {
        const { model } = yield* scripted(script)
        const policy = Policy.make({ name: "q", quota: { inputTokens: aDay(10_000), outputTokens: aDay(1_000) } })
        return yield* ResilientModel.make(model, policy, options)
      })

    const left = Effect.map(Quota.state("q"), ({ limits }) => [
      Math.round(limits.inputTokens?.available ?? -1),
      Math.round(limits.outputTokens?.available ?? -1)
    ])

    const slow = Effect.as(
      Effect.sleep("1 second"),
      ScriptedModel.text("Hello", { usage: { inputTokens: 7, outputTokens: 70 } })
    )

    for (const method of ["generateText", "streamText"] as const) {
      it.effect(`${method}: reserves the estimate, settles the usage`, () =>
        Effect.gen(function*() {
          const model = yield* limited(() => slow, { maxOutputTokens: 500 })
          const prompt = "x".repeat(4_000)
          const fiber = yield* Effect.forkChild(
            method === "generateText"
              ? Effect.asVoid(model.generateText({ prompt }))
              : Stream.runDrain(model.streamText({ prompt })),
            { startImmediately: true }
          )
          yield* Effect.yieldNow
          assert.deepStrictEqual(yield* left, [9_000, 500])
          yield* TestClock.adjust("1 second")
          yield* Fiber.join(fiber)
          assert.deepStrictEqual(yield* left, [9_993, 930])
        }).pipe(Effect.provide(Policy.layer)))
    }

    it.effect("the estimate is the user's, or counts all that is sent", () =>
      Effect.gen(function*() {
        const seen: Array<ResilientModel.Request> = []
        const model = yield* limited(() => "Hi", {
          estimate: (request) => {
            seen.push(request)
            return 3
          }
        })
        const kit = yield* withHandler(() => Effect.succeed("found"))
        yield* model.generateText({ prompt: "Hello", toolkit: kit })
        const [request] = seen
        assert.isDefined(request)
        assert.strictEqual(request.method, "generateText")
        assert.deepStrictEqual(request.tools.map(({ name }) => name), ["search"])
        const bare = ResilientModel.estimateInputTokens({ ...request, tools: [] })
        assert.strictEqual(bare, 2)
        assert.isAbove(ResilientModel.estimateInputTokens(request), 20)
        const image = Prompt.make([{
          role: "user",
          content: [{ type: "file", mediaType: "image/png", data: new Uint8Array(1_000_000) }]
        }])
        assert.strictEqual(ResilientModel.estimateInputTokens({ ...request, tools: [], prompt: image }), 1_600)
      }).pipe(Effect.provide(Policy.layer)))
  })

  describe("what is idempotent", () => {
    const policy = Policy.make({ name: "x", retry, hedge: { delay: "5 seconds" } })
    const ambiguous = ScriptedModel.fail(Fault.ambiguous)
    const slowly: ScriptedModel.Script = ({ index }) =>
      Effect.as(Effect.sleep(index === 0 ? "1 minute" : "1 second"), `answer ${index}`)

    it.effect("calls without tools are hedged, and tried again where nobody knows what became of them", () =>
      Effect.gen(function*() {
        const [hedged, requests] = yield* guarded(text(), slowly, policy)
        assert.isTrue(Exit.isSuccess(hedged) && hedged.value.text === "answer 1")
        assert.strictEqual(requests.length, 2)
        const [parts] = yield* guarded(stream(), slowly, policy)
        assert.isTrue(Exit.isSuccess(parts) && parts.value.text === "answer 1")
        const [again] = yield* guarded(text(), [ambiguous, "again"], policy)
        assert.isTrue(Exit.isSuccess(again) && again.value.text === "again")
      }))

    it.effect("calls with tools are not, unless it is said", () =>
      Effect.gen(function*() {
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const ask = LanguageModel.generateText({ prompt: "?", toolkit: kit })
        const [once, requests] = yield* guarded(ask, slowly, policy)
        assert.isTrue(Exit.isSuccess(once) && once.value.text === "answer 0")
        assert.strictEqual(requests.length, 1)
        const [said] = yield* guarded(ask, slowly, policy, { idempotent: true })
        assert.isTrue(Exit.isSuccess(said) && said.value.text === "answer 1")
        const [surroundings] = yield* guarded(Fault.idempotent(ask), slowly, policy)
        assert.isTrue(Exit.isSuccess(surroundings) && surroundings.value.text === "answer 1")
        const [never] = yield* guarded(text(), slowly, policy, { idempotent: false })
        assert.isTrue(Exit.isSuccess(never) && never.value.text === "answer 0")
      }))
  })

  describe("fallback", () => {
    const model = (script: ScriptedModel.Script) => Effect.map(scripted(script), ({ model }) => model)

    const answered = Effect.fnUntraced(function*() {
      const policy = Policy.make({ name: "x", retry, circuit: {} })
      return yield* ResilientModel.makeFallback([
        { label: "large", model: yield* model(() => overloaded), policy },
        { label: "small", model: yield* model(() => "small answer"), policy }
      ])
    })

    it.effect("says which model answered, and why", () =>
      Effect.gen(function*() {
        const events: Array<string> = []
        const careful = yield* answered()
        const answer = yield* run(careful.generateText({ prompt: "?" })).pipe(
          Effect.map(ResilientModel.toAnswer),
          Effect.provideService(Telemetry.Listener, (event) => {
            if (event._tag === "FallbackUsed") events.push(event.source)
          })
        )
        assert.strictEqual(answer.value.text, "small answer")
        assert.strictEqual(answer.source, "small")
        assert.isTrue(answer.degraded)
        assert.deepStrictEqual(answer.errors.map(({ label, verdict }) => [label, verdict]), [["large", "Overloaded"]])
        assert.deepStrictEqual(events, ["small"])
        const parts = yield* run(Stream.runCollect(careful.streamText({ prompt: "?" })))
        const provenance = Option.getOrThrow(ResilientModel.provenance(parts))
        assert.deepInclude(provenance, { source: "small", degraded: true })
        assert.deepStrictEqual(provenance.errors.map(({ label }) => label), ["large"])
        const { value } = yield* run(
          Effect.flip(careful.generateObject({ prompt: "?", schema: Schema.Struct({ a: Schema.String }) })).pipe(
            Effect.map((value) => ({ value }))
          )
        )
        assert.strictEqual(value.reason._tag, "StructuredOutputError")
      }).pipe(Effect.scoped, Effect.provide(Policy.layer)))

    it.effect("the first choice is not degraded", () =>
      Effect.gen(function*() {
        const careful = yield* ResilientModel.makeFallback([{ label: "large", model: yield* model(() => "Hi") }])
        const { content } = yield* careful.generateText({ prompt: "?" })
        assert.deepStrictEqual(
          Option.getOrThrow(ResilientModel.provenance(content)),
          { source: "large", degraded: false, errors: [] }
        )
      }).pipe(Effect.scoped))

    it.effect("hands prompt, tools and schema on unchanged", () =>
      Effect.gen(function*() {
        const large = yield* scripted(() => overloaded)
        const small = yield* scripted(() => JSON.stringify({ a: "b" }))
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const careful = yield* ResilientModel.makeFallback([
          { label: "large", model: large.model },
          { label: "small", model: small.model }
        ])
        const { value } = yield* careful.generateObject({
          prompt: "?",
          schema: Schema.Struct({ a: Schema.String }),
          toolkit: kit,
          toolChoice: "auto"
        })
        assert.deepStrictEqual(value, { a: "b" })
        const [first] = yield* large.requests
        const [second] = yield* small.requests
        assert.deepStrictEqual(first?.prompt, second?.prompt)
        assert.deepStrictEqual(first?.tools, second?.tools)
        assert.deepStrictEqual(first?.toolChoice, second?.toolChoice)
        assert.deepStrictEqual(first?.responseFormat, second?.responseFormat)
      }).pipe(Effect.scoped))

    it.effect("is not tried for errors of the request, but for those that another provider may take", () =>
      Effect.gen(function*() {
        const exhausted = ScriptedModel.fail(new AiError.QuotaExhaustedError({}))
        const outcome = Effect.fnUntraced(function*(
          error: AiError.AiError,
          providers: readonly [string | undefined, string | undefined]
        ) {
          const careful = yield* ResilientModel.makeFallback([
            { label: "first", model: yield* model(() => error), provider: providers[0] },
            { label: "second", model: yield* model(() => "Hi"), provider: providers[1] }
          ])
          const whole = yield* Effect.exit(careful.generateText({ prompt: "?" }))
          const parts = yield* Effect.exit(Stream.runCollect(careful.streamText({ prompt: "?" })))
          assert.strictEqual(whole._tag, parts._tag)
          return Exit.isSuccess(whole) ? whole.value.text : Option.getOrUndefined(Cause.findErrorOption(whole.cause))
        })
        assert.strictEqual(yield* outcome(permanent, ["a", "b"]), permanent)
        assert.strictEqual(yield* outcome(exhausted, ["a", "b"]), "Hi")
        assert.strictEqual(yield* outcome(exhausted, [undefined, undefined]), "Hi")
        assert.strictEqual(yield* outcome(exhausted, ["a", "a"]), exhausted)
        assert.strictEqual(yield* outcome(ScriptedModel.fail(Fault.contextOverflow), ["a", "a"]), "Hi")
        assert.strictEqual(yield* outcome(ScriptedModel.fail(Fault.refused), ["a", "a"]), "Hi")
      }).pipe(Effect.scoped))

    it.effect("an open circuit of one does not keep the next from answering", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "x", circuit: { failures: 1 } })
        const careful = yield* ResilientModel.makeFallback([
          { label: "large", model: yield* model(() => overloaded), policy },
          { label: "small", model: yield* model(() => "Hi"), policy }
        ])
        yield* careful.generateText({ prompt: "?" })
        const answer = yield* Effect.map(careful.generateText({ prompt: "?" }), ResilientModel.toAnswer)
        assert.deepStrictEqual(
          answer.errors.map(({ label, skipped, tag }) => [label, tag, skipped]),
          [["large", "CircuitOpen", true]]
        )
      }).pipe(Effect.scoped, Effect.provide(Policy.layer)))

    it.effect("after the first part of a stream there is none, unless it is buffered", () =>
      Effect.gen(function*() {
        const cut: ScriptedModel.Answer = [{ type: "text", text: "Once upon" }]
        const careful = Effect.fnUntraced(function*(buffer: boolean) {
          return yield* ResilientModel.makeFallback([
            { label: "large", model: yield* model(() => cut) },
            { label: "small", model: yield* model(() => "The end") }
          ], { buffer })
        })
        const live = yield* streamed((yield* careful(false)).streamText({ prompt: "?" }))
        assert.strictEqual(live.text, "Once upon")
        assert.isDefined(live.error)
        const whole = yield* streamed((yield* careful(true)).streamText({ prompt: "?" }))
        assert.strictEqual(whole.text, "The end")
        assert.deepInclude(Option.getOrThrow(ResilientModel.provenance(whole.seen)), { source: "small" })
      }).pipe(Effect.scoped))

    it.effect("one inside of another keeps what the inner one says", () =>
      Effect.gen(function*() {
        const inner = yield* answered()
        const outer = yield* ResilientModel.make(inner, Policy.make({ name: "outer" }))
        const { content } = yield* run(outer.generateText({ prompt: "?" }))
        assert.deepInclude(Option.getOrThrow(ResilientModel.provenance(content)), { source: "small", degraded: true })
        const last = yield* ResilientModel.makeFallback([
          { label: "other", model: yield* model(() => overloaded) },
          { label: "these", model: inner }
        ])
        const parts = yield* run(Stream.runCollect(last.streamText({ prompt: "?" })))
        const provenance = Option.getOrThrow(ResilientModel.provenance(parts))
        assert.strictEqual(provenance.source, "these")
        assert.deepStrictEqual(provenance.errors.map(({ label }) => label), ["other", "large"])
      }).pipe(Effect.scoped, Effect.provide(Policy.layer)))

    it.effect("when none answers, the error is the last one's", () =>
      Effect.gen(function*() {
        const other = ScriptedModel.fail(Fault.throttled("3 seconds"))
        const careful = yield* ResilientModel.makeFallback([
          { label: "large", model: yield* model(() => overloaded) },
          { label: "small", model: yield* model(() => other) }
        ])
        assert.strictEqual(yield* Effect.flip(careful.generateText({ prompt: "?" })), other)
        assert.strictEqual((yield* streamed(careful.streamText({ prompt: "?" }))).error, other)
      }).pipe(Effect.scoped))

    it.effect("layers are built once, and closed with the layer around", () =>
      Effect.gen(function*() {
        const built = yield* Ref.make<ReadonlyArray<string>>([])
        const counted = (name: string) =>
          Layer.effect(
            LanguageModel.LanguageModel,
            Effect.andThen(
              Effect.acquireRelease(
                Ref.update(built, (all) => [...all, name]),
                () => Ref.update(built, (all) => [...all, `${name} closed`])
              ),
              model(() => overloaded)
            )
          )
        const Live = ResilientModel.fallback([
          { label: "a", model: counted("a") },
          { label: "b", model: counted("b") }
        ])
        yield* Effect.ignore(text()).pipe(Effect.repeat({ times: 3 }), Effect.provide(Live))
        assert.deepStrictEqual(yield* Ref.get(built), ["a", "b", "b closed", "a closed"])
      }))

    it.effect("the ids of responses are the first model's alone", () =>
      Effect.gen(function*() {
        const seen: Array<readonly [string, string | undefined]> = []
        const tracked = (name: string, id: string | undefined) =>
          LanguageModel.make({
            generateText: ({ previousResponseId }) => {
              seen.push([name, previousResponseId])
              return id === undefined ? Effect.fail(overloaded) : Effect.succeed([
                { type: "response-metadata", id },
                ...ScriptedModel.text("Hi")
              ])
            },
            streamText: () => Stream.empty
          })
        const first = yield* tracked("first", "r1")
        const second = yield* tracked("second", "s1")
        let isUp = true
        const turning: LanguageModel.LanguageModel = {
          ...first,
          generateText: ((options: never) => isUp ? first.generateText(options) : Effect.fail(overloaded)) as never
        }
        const careful = yield* ResilientModel.makeFallback([
          { label: "first", model: turning },
          { label: "second", model: second }
        ])
        const tracker = yield* ResponseIdTracker.make
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const ask = (prompt: Prompt.Prompt) =>
          Effect.provideService(
            careful.generateText({ prompt, toolkit: kit }),
            ResponseIdTracker.ResponseIdTracker,
            tracker
          )
        const one = Prompt.make("one")
        const { content } = yield* ask(one)
        const two = Prompt.concat(Prompt.concat(one, Prompt.fromResponseParts(content)), Prompt.make("two"))
        isUp = false
        yield* ask(two)
        isUp = true
        yield* ask(two)
        assert.deepStrictEqual(seen, [["first", undefined], ["second", undefined], ["first", "r1"]])
      }).pipe(Effect.scoped))
  })

  describe("lastGood", () => {
    const policy = Policy.make({ name: "x", retry })
    const Person = Schema.Struct({ born: Schema.DateTimeUtcFromString })
    const json = JSON.stringify({ born: "1990-01-01T00:00:00.000Z" })

    const model = (script: ScriptedModel.Script, options: ResilientModel.LastGoodOptions = {}) =>
      Effect.flatMap(
        scripted(script),
        ({ model }) => ResilientModel.make(model, policy, { lastGood: options })
      )
    const once = (answer: ScriptedModel.Answer): ScriptedModel.Script => ({ index }) =>
      index === 0 ? answer : overloaded

    it.effect("serves the last good answer to the same prompt, marked as such, at no cost", () =>
      Effect.gen(function*() {
        const careful = yield* model(once(ScriptedModel.text("Sunny", { usage: { outputTokens: 5 } })))
        const fresh = yield* careful.generateText({ prompt: "Weather?" })
        assert.deepInclude(ResilientModel.toAnswer(fresh), { source: "primary", degraded: false })
        yield* TestClock.adjust("10 minutes")
        const old = yield* run(careful.generateText({ prompt: "Weather?" }), "10 seconds")
        assert.strictEqual(old.text, "Sunny")
        assert.strictEqual(old.usage.outputTokens.total, 0)
        const provenance = Option.getOrThrow(ResilientModel.provenance(old.content))
        assert.deepInclude(provenance, { source: "last good", degraded: true })
        assert.deepStrictEqual(provenance.errors.map(({ verdict }) => verdict), ["Overloaded"])
        assert.strictEqual(Duration.toMillis(provenance.lastGood?.age ?? 0), 602_000)
        const other = yield* run(Effect.flip(careful.generateText({ prompt: "News?" })))
        assert.strictEqual(other, overloaded)
      }).pipe(Effect.provide(everything)))

    it.effect("of a stream", () =>
      Effect.gen(function*() {
        const careful = yield* model(once("It is sunny"))
        yield* Stream.runDrain(careful.streamText({ prompt: "Weather?" }))
        const old = yield* run(streamed(careful.streamText({ prompt: "Weather?" })))
        assert.strictEqual(old.text, "It is sunny")
        assert.deepInclude(Option.getOrThrow(ResilientModel.provenance(old.seen)), { source: "last good" })
      }).pipe(Effect.provide(everything)))

    it.effect("of an object", () =>
      Effect.gen(function*() {
        const careful = yield* model(once(json))
        const ask = careful.generateObject({ prompt: "When?", schema: Person })
        const fresh = yield* ask
        const old = yield* run(ask)
        assert.deepStrictEqual(old.value, fresh.value)
        assert.deepInclude(ResilientModel.toAnswer(old), { source: "last good" })
      }).pipe(Effect.provide(everything)))

    it.effect("a secret is not kept", () =>
      Effect.gen(function*() {
        const careful = yield* model(once(JSON.stringify({ token: "s3cret" })))
        const ask = careful.generateObject({
          prompt: "?",
          schema: Schema.Struct({ token: Schema.RedactedFromValue(Schema.String) })
        })
        yield* ask
        assert.strictEqual(yield* run(Effect.flip(ask)), overloaded)
        assert.deepStrictEqual(yield* LastGood.LastGood.use((store) => store.keys("model")), [])
      }).pipe(Effect.provide(everything)))

    it.effect("not of answers that call tools, nor of those of a stand-in, nor of those that are too old", () =>
      Effect.gen(function*() {
        const kit = yield* withHandler(() => Effect.succeed("found"))
        const calling = yield* model(once(toolCall))
        const ask = calling.generateText({ prompt: "?", toolkit: kit, disableToolCallResolution: true })
        yield* ask
        assert.strictEqual(yield* run(Effect.flip(ask)), overloaded)

        const { model: small } = yield* scripted(once("small"))
        const { model: large } = yield* scripted(() => overloaded)
        const careful = yield* ResilientModel.makeFallback([
          { label: "large", model: large },
          { label: "small", model: small }
        ], { lastGood: { slot: "other" } })
        yield* careful.generateText({ prompt: "?" })
        assert.strictEqual(yield* Effect.flip(careful.generateText({ prompt: "?" })), overloaded)

        const aging = yield* model(once("young"), { slot: "aging", maxAge: "1 minute", key: () => "all" })
        yield* aging.generateText({ prompt: "?" })
        const other = yield* run(aging.generateText({ prompt: "another question" }), "10 seconds")
        assert.strictEqual(other.text, "young")
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* run(Effect.flip(aging.generateText({ prompt: "?" }))), overloaded)
      }).pipe(Effect.scoped, Effect.provide(everything)))
  })

  describe("options", () => {
    it.effect("that cannot work are said when it is built", () =>
      Effect.gen(function*() {
        const { model } = yield* scripted([])
        const dies = (make: () => Effect.Effect<unknown>, message: RegExp) =>
          Effect.map(Effect.exit(Effect.suspend(make)), (exit) => {
            assert.isTrue(Exit.isFailure(exit))
            if (Exit.isFailure(exit)) assert.match(String(Cause.squash(exit.cause)), message)
          })
        const policy = Policy.make({ name: "x" })
        const withFallback = Policy.make({ name: "x", fallback: Fallback.step("y", Effect.succeed(1)) })
        yield* dies(() => ResilientModel.make(model, policy, { stall: "-1 second" }), /option "stall"/)
        yield* dies(() => ResilientModel.make(model, policy, { maxOutputTokens: 0 }), /option "maxOutputTokens"/)
        yield* dies(() => ResilientModel.make(model, policy, { key: "" }), /option "key"/)
        // @ts-expect-error: it has a fallback
        yield* dies(() => ResilientModel.make(model, withFallback), /option "policy"/)
        assert.throws(
          () => ResilientModel.fallback([{ label: "a", model }, { label: "a", model }]),
          /option "label" is "a"/
        )
        // @ts-expect-error: there are none
        assert.throws(() => ResilientModel.fallback([]), /option "entries"/)
      }))
  })
})
