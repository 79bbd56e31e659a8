import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Ref, Schema, Stream } from "effect"
import { Agent, CheckpointStore, Fault, Policy, ResilientModel, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError, LanguageModel, type Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { invalid } from "../support/invalid.ts"
import { replaying } from "../support/replaying.ts"
import { runs } from "../support/runs.ts"
import { call, counting, durable, kit } from "./support.ts"

const it = replaying()

const base = { name: "support", instructions: "Be kind.", toolkit: kit } as const
const agent = Agent.make(base)
const resuming = Agent.make({ ...base, stream: { onCut: "resume" } })
const atOnce = Agent.make({ ...base, stream: { maxCuts: 0 } })
const whole = Agent.make({ ...base, stream: false })
const options = { runId: "run-1", prompt: "Refund order 7" }

const refund = ScriptedModel.turn("Refunding.", call("1", "Refund", { order: "7" }))

/** Lets the virtual time pass until the effect has ended. */
const inTime = <A, E, R>(self: Effect.Effect<A, E, R>, atMost = 1_000) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(self, { startImmediately: true })
    for (let i = 0; fiber.pollUnsafe() === undefined; i++) {
      assert.isBelow(i, atMost, "it does not end")
      yield* TestClock.adjust("500 millis")
    }
    return yield* Fiber.join(fiber)
  })

/** A run with a script, and what became of it. */
const told = <Value, E, R>(
  by: Agent.Agent<typeof kit.tools, Value, E, R>,
  script: ScriptedModel.Script
) =>
  Effect.gen(function*() {
    const { handlers, lookups, refunds } = yield* counting
    return yield* Effect.gen(function*() {
      const exit = yield* Effect.exit(inTime(Agent.run(by, options)))
      const error = Exit.isFailure(exit)
        ? exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
        : undefined
      return {
        result: Exit.isSuccess(exit) ? exit.value : undefined,
        error: error instanceof Agent.AgentError ? error : undefined,
        failure: error,
        requests: yield* ScriptedModel.requests,
        refunds: yield* Ref.get(refunds),
        lookups: yield* Ref.get(lookups)
      }
    }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
  })

const rolesOf = (request: ScriptedModel.Request | undefined) => request?.prompt.content.map(({ role }) => role)

describe("an agent asks", () => {
  it.effect("with a stream by default, and in one piece with stream: false", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* told(agent, [refund, "Done."])).requests.map(({ stream }) => stream), [true, true])
      const { requests } = yield* Effect.provide(told(whole, [refund, "Done."]), Layer.fresh(durable))
      assert.deepStrictEqual(requests.map(({ stream }) => stream), [false, false])
    }).pipe(Effect.provide(durable)))

  it("refuses options that cannot work", () => {
    for (
      const [option, stream] of [
        ["stream.idleTimeout", { idleTimeout: 0 }],
        ["stream.idleTimeout", { idleTimeout: Infinity }],
        ["stream.maxCuts", { maxCuts: -1 }],
        ["stream.maxCuts", { maxCuts: 101 }],
        ["stream.onCut", JSON.parse(`{"onCut":"fail"}`)]
      ] as const
    ) {
      invalid(option)(Effect.runSyncExit(Effect.try({ try: () => Agent.make({ ...base, stream }), catch: (e) => e })))
    }
  })
})

describe("no tool runs", () => {
  const ends = {
    "is cut": "cut",
    "breaks off": Fault.ambiguous,
    "fails with an error of the provider": Fault.overloaded(),
    "stands still": "silence"
  } as const

  for (const [name, end] of Object.entries(ends)) {
    it.effect(`of an answer whose stream ${name} after the tool call`, () =>
      Effect.gen(function*() {
        const { error, refunds, requests } = yield* told(atOnce, [ScriptedModel.streamed(refund, { end })])
        assert.strictEqual(error?.reason._tag, "CutOff")
        assert.deepStrictEqual(refunds, [])
        assert.strictEqual(requests.length, 1)
      }).pipe(Effect.provide(durable)))

    it.effect(`more than once where the stream ${name} after the tool call, and the answer is asked for again`, () =>
      Effect.gen(function*() {
        const { refunds, requests, result } = yield* told(agent, [
          ScriptedModel.streamed(refund, { end }),
          ScriptedModel.streamed(refund, { end }),
          refund,
          "Done."
        ])
        assert.strictEqual(result?.text, "Done.")
        assert.deepStrictEqual(refunds, ["7"])
        assert.deepInclude(result?.counters, { cuts: 2, retries: 2, unmetered: 2 })
        assert.deepStrictEqual(requests[1]?.prompt, requests[0]?.prompt)
        assert.deepStrictEqual(requests[2]?.prompt, requests[0]?.prompt)
      }).pipe(Effect.provide(durable)))
  }

  it.effect("of an answer that says inside of its stream that it failed", () =>
    Effect.gen(function*() {
      const { error, refunds } = yield* told(atOnce, [[
        { type: "text", text: "Refunding." },
        call("1", "Refund", { order: "7" }),
        // The types of a whole answer have no error, those of a stream have.
        { type: "error", error: { type: "overloaded_error" } } as unknown as Response.PartEncoded,
        ...ScriptedModel.turn()
      ]])
      assert.strictEqual(error?.reason._tag, "CutOff")
      assert.deepStrictEqual(refunds, [])
    }).pipe(Effect.provide(durable)))

  it.effect("before the stream has come to its end, with its finish part", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const gate = yield* Deferred.make<void>()
      const late = yield* LanguageModel.make({
        generateText: () => Effect.die("not in one piece"),
        streamText: ({ prompt }) =>
          prompt.content.some(({ role }) => role === "tool")
            ? Stream.fromIterable(parts("Done."))
            : Stream.concat(Stream.fromIterable(parts(refund)), Stream.drain(Stream.fromEffect(Deferred.await(gate))))
      })
      const world = Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, late))
      const fiber = yield* Effect.forkChild(Effect.provide(Agent.run(agent, options), world), {
        startImmediately: true
      })
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* Ref.get(refunds), [])
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual((yield* Fiber.join(fiber)).text, "Done.")
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
    }).pipe(Effect.provide(durable)))

  const Turn = Schema.Array(Schema.Literals(["Once ", "upon a ", "time ", "1", "2", "3"])).check(
    Schema.isMinLength(1),
    Schema.isMaxLength(6)
  )
  const Cut = Schema.Struct({
    turn: Turn,
    after: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 25 })),
    end: Schema.Literals(["cut", "silence", "Ambiguous", "Transient"])
  })

  it.effect.prop(
    "wherever the stream is cut, however it is cut, and the error has the text that came",
    { cut: Cut },
    ({ cut: { after, end, turn } }) =>
      Effect.gen(function*() {
        const pieces = turn.filter((piece, at) => Number.isNaN(Number(piece)) || turn.indexOf(piece) === at)
        const parts = pieces.map((piece) =>
          Number.isNaN(Number(piece)) ? piece : call(piece, "Refund", { order: piece })
        )
        const text = parts.filter((part) => typeof part === "string").join("")
        const { error, failure, refunds } = yield* told(atOnce, [
          ScriptedModel.streamed(ScriptedModel.turn(...parts).slice(0, -1), {
            after,
            end: end === "cut" || end === "silence" ? end : { _tag: end }
          })
        ])
        assert.deepStrictEqual(refunds, [])
        if (error?.reason._tag === "CutOff") assert.isTrue(text.startsWith(error.reason.text))
        else assert.isTrue(AiError.isAiError(failure), "nothing had come, and the provider failed")
      }).pipe(Effect.provide(Layer.fresh(durable))),
    { arbitrary: { runs: runs(60, 2_000), seed: 1 }, timeout: runs(60_000, 900_000) }
  )
})

const parts = (answer: string | ReadonlyArray<Response.PartEncoded>): ReadonlyArray<Response.StreamPartEncoded> =>
  (typeof answer === "string" ? ScriptedModel.text(answer) : answer).flatMap((
    part
  ): ReadonlyArray<Response.StreamPartEncoded> =>
    part.type === "text"
      ? [
        { type: "text-start", id: "0" },
        { type: "text-delta", id: "0", delta: part.text },
        { type: "text-end", id: "0" }
      ]
      : part.type === "reasoning"
      ? []
      : [part]
  )

describe("a stream that stands still", () => {
  const silent = ScriptedModel.streamed("Half an answer", { after: 2, end: "silence" })

  it.effect("is cut after 30 seconds, with a verdict that a guard retries", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const fiber = yield* Agent.run(atOnce, options).pipe(
        Effect.flip,
        Effect.provide(Layer.merge((yield* counting).handlers, ScriptedModel.layer([silent]))),
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event)),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("29 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "CutOff" && error.reason.text === "Half")
      assert.isTrue(Fault.isRetryable(yield* Fault.classify(error)))
      assert.strictEqual((yield* Fault.classify(error))._tag, "TimedOut")
      assert.include(error.message, "30s")
      assert.deepInclude(events.find(({ _tag }) => _tag === "AnswerCut"), { turn: 1, cuts: 1, characters: 4 })
    }).pipe(Effect.provide(durable)))

  it.effect("is not one whose parts a ResilientModel collects: they are signs of life", () =>
    Effect.gen(function*() {
      const slow = ScriptedModel.streamed("One two three four five six", { pause: "25 seconds" })
      const collecting = ResilientModel.layer(Policy.make({ name: "model" }), { buffer: true }).pipe(
        Layer.provide([ScriptedModel.layer([slow]), Policy.layer])
      )
      const patient = Agent.make({ ...base, stream: { maxCuts: 0 }, budget: { wallTime: "1 hour" } })
      const result = yield* inTime(Agent.run(patient, options)).pipe(
        Effect.provide(Layer.merge((yield* counting).handlers, collecting))
      )
      assert.strictEqual(result.text, "One two three four five six")
    }).pipe(Effect.provide(durable)))

  for (const buffer of [false, true]) {
    it.effect(`is not one that waits in the guards of a ResilientModel for its turn, ${buffer ? "" : "not "}collected`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "model", retry: { maxAttempts: 3 }, bulkhead: { maxConcurrent: 1 } })
        const busy = ScriptedModel.fail(Fault.throttled("55 seconds"))
        const waiting = ResilientModel.layer(policy, { buffer }).pipe(
          Layer.provideMerge([ScriptedModel.layer([busy, busy, "At last."]), Policy.layer])
        )
        const result = yield* inTime(Agent.run(atOnce, options)).pipe(
          Effect.provide(Layer.merge((yield* counting).handlers, waiting))
        )
        assert.strictEqual(result.text, "At last.")
        assert.deepInclude(result.counters, { cuts: 0 })
      }).pipe(Effect.provide(durable)))

    it.effect(`is cut there where the try itself stands still, ${buffer ? "" : "not "}collected`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "model", retry: { maxAttempts: 3 } })
        const waiting = ResilientModel.layer(policy, { buffer }).pipe(
          Layer.provideMerge([ScriptedModel.layer(() => Effect.never), Policy.layer])
        )
        const error = yield* inTime(Effect.flip(Agent.run(atOnce, options))).pipe(
          Effect.provide(Layer.merge((yield* counting).handlers, waiting))
        )
        assert.isTrue(error._tag === "AgentError" && error.reason._tag === "CutOff")
      }).pipe(Effect.provide(durable)))
  }

  it.effect("is cut behind a ResilientModel that collects, too", () =>
    Effect.gen(function*() {
      const collecting = ResilientModel.layer(Policy.make({ name: "model" }), { buffer: true, stall: "50 seconds" })
        .pipe(
          Layer.provide([ScriptedModel.layer([silent]), Policy.layer])
        )
      const error = yield* inTime(Effect.flip(Agent.run(atOnce, options))).pipe(
        Effect.provide(Layer.merge((yield* counting).handlers, collecting))
      )
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "CutOff")
      assert.include(error.message, "30s")
    }).pipe(Effect.provide(durable)))

  it.effect("from its beginning is cut too", () =>
    Effect.gen(function*() {
      const { error } = yield* told(atOnce, () => Effect.never)
      assert.isTrue(
        error?.reason._tag === "CutOff" && error.reason.text === "" && error.reason.verdict._tag === "TimedOut"
      )
    }).pipe(Effect.provide(durable)))

  it.effect("is not one that is slow: it may take as long as it likes between two parts, up to the timeout", () =>
    Effect.gen(function*() {
      const patient = Agent.make({ ...base, stream: { idleTimeout: "50 seconds", maxCuts: 0 } })
      const slow = ScriptedModel.streamed("One two three four", { pause: "40 seconds" })
      const { result } = yield* told(patient, [slow])
      assert.strictEqual(result?.text, "One two three four")
      assert.strictEqual(result?.counters.cuts, 0)
      const { error } = yield* Effect.provide(told(atOnce, [slow]), Layer.fresh(durable))
      assert.strictEqual(error?.reason._tag, "CutOff")
    }).pipe(Effect.provide(durable)))

  it.effect("at the end of the run's time counts as spent, and the run ends gracefully", () =>
    Effect.gen(function*() {
      const short = Agent.make({ ...base, budget: { wallTime: "10 seconds" } })
      const { result } = yield* told(short, [silent, "So far: nothing."])
      assert.strictEqual(result?.completion, "graceful")
      assert.strictEqual(result?.counters.unmetered, 1)
      assert.isAtLeast(result?.usage.outputTokens ?? 0, 4096)
    }).pipe(Effect.provide(durable)))
})

describe("an answer that was cut and is asked for again", () => {
  const cut = ScriptedModel.streamed("Half an answer", { after: 3, end: "cut" })

  it.effect("is not in the history or the result, and is paid for", () =>
    Effect.gen(function*() {
      const usage = { inputTokens: 10, outputTokens: 2 }
      const { requests, result } = yield* told(agent, [
        cut,
        ScriptedModel.turn("Looking.", call("1", "Lookup", { order: "7" }), { usage }),
        ScriptedModel.text("Done.", { usage })
      ])
      assert.strictEqual(result?.text, "Done.")
      assert.notInclude(JSON.stringify(requests[2]?.prompt), "Half")
      assert.deepInclude(result?.counters, { cuts: 1, retries: 1, unmetered: 1 })
      assert.isAbove(result?.usage.inputTokens ?? 0, 20)
      assert.strictEqual(result?.usage.outputTokens, 4096 + 4)
    }).pipe(Effect.provide(durable)))

  it.effect("is paid for by its length, where that is more than an answer usually has", () =>
    Effect.gen(function*() {
      const long = "word ".repeat(10_000)
      const { result } = yield* told(agent, [ScriptedModel.streamed(long, { end: "cut" }), "Done."])
      assert.strictEqual(result?.usage.outputTokens, long.length / 2)
    }).pipe(Effect.provide(durable)))

  it.effect("that many times and no more: then the error has what had come, up to 8,000 characters", () =>
    Effect.gen(function*() {
      const { error, requests } = yield* told(
        agent,
        () => ScriptedModel.streamed("word ".repeat(5_000), { end: "cut" })
      )
      assert.strictEqual(requests.length, 3)
      assert.isTrue(
        error?.reason._tag === "CutOff" && error.reason.text.startsWith("word word") &&
          error.reason.text.length <= 8_000
      )
      const codec = Schema.toCodecJson(Agent.AgentError)
      const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(error as Agent.AgentError))
      assert.strictEqual(back.message, error?.message)
      assert.strictEqual((yield* Fault.classify(back))._tag, "Transient")
    }).pipe(Effect.provide(durable)))

  it.effect("is asked for by the guard first, where it has one that tries again", () =>
    Effect.gen(function*() {
      let guarded = 0
      const failures: Array<string> = []
      const counted = Agent.make({
        ...base,
        policies: {
          model: (self) =>
            Effect.suspend(() => {
              guarded++
              return Effect.retry(
                Effect.tapError(self, (error) => Effect.sync(() => failures.push(error._tag))),
                { times: 1 }
              )
            })
        }
      })
      const { error, requests } = yield* told(counted, () => cut)
      assert.strictEqual(error?.reason._tag, "CutOff")
      assert.strictEqual(guarded, 3)
      assert.strictEqual(requests.length, 6)
      assert.deepStrictEqual(Array.from(new Set(failures)), ["AgentError"])
    }).pipe(Effect.provide(durable)))

  it.effect("is not where the error says that it would fail in the same way", () =>
    Effect.gen(function*() {
      const { error, requests } = yield* told(agent, () =>
        ScriptedModel.streamed("Half an answer", { after: 3, end: Fault.permanent }))
      assert.strictEqual(requests.length, 1)
      assert.isTrue(error?.reason._tag === "CutOff" && error.reason.text === "Half an")
    }).pipe(Effect.provide(durable)))

  it.effect("is not where it goes on and on: its stream is cut before it fills the memory", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      let given = 0
      const piece = "x".repeat(100_000)
      const endless = yield* LanguageModel.make({
        generateText: () => Effect.die("not in one piece"),
        streamText: () =>
          Stream.forever(Stream.sync((): Response.StreamPartEncoded => {
            given++
            return { type: "text-delta", id: "0", delta: piece }
          }))
      })
      const error = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, endless))),
        Effect.flip
      )
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "CutOff")
      assert.isBelow(given, 110)
    }).pipe(Effect.provide(durable)))

  it.effect("is not where the request failed before anything came: that is the guard's business", () =>
    Effect.gen(function*() {
      const { failure, requests } = yield* told(agent, [ScriptedModel.fail(Fault.overloaded()), "Done."])
      assert.isTrue(AiError.isAiError(failure))
      assert.strictEqual(requests.length, 1)
    }).pipe(Effect.provide(durable)))
})

describe("an answer that was cut and is gone on with", () => {
  const cut = (text: string) => ScriptedModel.streamed(text, { end: "cut" })

  it.effect("is joined of its pieces, and the model is told what it said", () =>
    Effect.gen(function*() {
      const { refunds, requests, result } = yield* told(resuming, [
        cut("The price is "),
        cut("ten, so "),
        ScriptedModel.turn("I refund it.", call("1", "Refund", { order: "7" })),
        "Done."
      ])
      assert.strictEqual(result?.text, "Done.")
      assert.deepStrictEqual(refunds, ["7"])
      assert.deepInclude(result?.counters, { cuts: 2, retries: 2, unmetered: 2 })
      assert.deepStrictEqual(rolesOf(requests[2]), ["system", "user", "assistant", "user"])
      const said = requests[2]?.prompt.content[2]
      assert.isTrue(
        said?.role === "assistant" && said.content[0]?.type === "text" &&
          said.content[0].text === "The price is ten, so "
      )
      // The history has one answer, and nothing of how it came.
      assert.deepStrictEqual(rolesOf(requests[3]), ["system", "user", "assistant", "tool"])
      const joined = requests[3]?.prompt.content[2]
      assert.deepStrictEqual(
        joined?.role === "assistant" ? joined.content.map((part) => part.type === "text" ? part.text : part.type) : [],
        ["The price is ten, so I refund it.", "tool-call"]
      )
    }).pipe(Effect.provide(durable)))

  it.effect("has its thoughts first, as providers want them, and its text where it calls tools alone", () =>
    Effect.gen(function*() {
      const { requests } = yield* told(resuming, [
        cut("I look "),
        ScriptedModel.turn(
          { type: "reasoning", text: "Hm.", metadata: { anthropic: { signature: "abc" } } },
          call("1", "Lookup", { order: "7" })
        ),
        "Done."
      ])
      const joined = requests[2]?.prompt.content[2]
      assert.deepStrictEqual(
        joined?.role === "assistant" ? joined.content.map(({ type }) => type) : [],
        ["reasoning", "text", "tool-call"]
      )
    }).pipe(Effect.provide(durable)))

  it.effect("is whole where the model has nothing to add", () =>
    Effect.gen(function*() {
      const { result } = yield* told(resuming, [cut("That is all."), ScriptedModel.turn()])
      assert.strictEqual(result?.text, "That is all.")
    }).pipe(Effect.provide(durable)))

  it.effect("is asked for again where nothing of its text had come", () =>
    Effect.gen(function*() {
      const { requests, result } = yield* told(resuming, [
        ScriptedModel.streamed(call("1", "Refund", { order: "7" }), { end: "cut" }),
        "Done."
      ])
      assert.strictEqual(result?.text, "Done.")
      assert.deepStrictEqual(requests[1]?.prompt, requests[0]?.prompt)
    }).pipe(Effect.provide(durable)))

  it.effect("is asked for again where another model answers, so that no answer is of two models", () =>
    Effect.gen(function*() {
      const other = yield* Layer.build(ScriptedModel.layer(["Whole."]))
      const model = Context.get(other, LanguageModel.LanguageModel)
      const falling = Agent.make({
        ...base,
        stream: { onCut: "resume" },
        policies: {
          model: (self) =>
            self.pipe(Effect.catch(() => Effect.provideService(self, LanguageModel.LanguageModel, model)))
        }
      })
      const { result } = yield* told(falling, [cut("Half an ")])
      assert.strictEqual(result?.text, "Whole.")
      const [request] = yield* Effect.provide(ScriptedModel.requests, other)
      assert.deepStrictEqual(rolesOf(request), ["system", "user"])
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("that many times and no more: then the error has the pieces that came", () =>
    Effect.gen(function*() {
      const { error, requests } = yield* told(resuming, ({ index }) => cut(`piece ${index}, `))
      assert.strictEqual(requests.length, 3)
      assert.isTrue(error?.reason._tag === "CutOff" && error.reason.text === "piece 0, piece 1, piece 2, ")
    }).pipe(Effect.provide(durable)))
})

describe("a streamed answer", () => {
  const answers = {
    "that refuses": ScriptedModel.text("No.", { finishReason: "content-filter" }),
    "that is truncated": ScriptedModel.turn("I will", call("1", "Refund", { order: "7" }), { finishReason: "length" }),
    "that is empty": ScriptedModel.turn(),
    "that ends in another way": ScriptedModel.text("Hm", { finishReason: "other" }),
    "that pauses": ScriptedModel.text("One moment. ", { finishReason: "pause" }),
    "with thoughts, texts and a tool call": ScriptedModel.turn(
      { type: "response-metadata", id: "r", modelId: "m", timestamp: undefined },
      { type: "reasoning", text: "Hm, let me think.", metadata: { anthropic: { signature: "abc" } } },
      { type: "text", text: "First this.", metadata: { anthropic: { citations: [] } } },
      "Then that.",
      call("1", "Lookup", { order: "7" }),
      call("2", "Nope", { order: "7" }),
      { usage: { inputTokens: 100, outputTokens: 10 } }
    )
  }

  /** The journal, without the time of day and what is drawn for each run. */
  const journal = Effect.gen(function*() {
    const store = yield* CheckpointStore.CheckpointStore
    const entries = yield* store.read(options.runId)
    return entries.map(({ body, step }) => [step, body.replace(/,"(at":\d+|salt":"\w+")/g, "")])
  })

  for (const [name, answer] of Object.entries(answers)) {
    it.effect(`${name} comes to the same, in the journal too, as one in a piece`, () =>
      Effect.gen(function*() {
        const script: ScriptedModel.Script = ({ index }) => index === 0 || name === "that is empty" ? answer : "Done."
        const came = (by: typeof agent) =>
          Effect.gen(function*() {
            const { error, refunds, result } = yield* told(by, script)
            const records = yield* journal
            return { error: error?.reason, refunds, result, records }
          }).pipe(Effect.provide(Layer.fresh(durable)))
        const [streamed, generated] = [yield* came(agent), yield* came(whole)]
        assert.isNotEmpty(streamed.records)
        assert.deepStrictEqual(streamed, generated)
      }))
  }

  it.effect("is the same answer where its pieces begin without a word", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const bare = yield* LanguageModel.make({
        generateText: () => Effect.die("not in one piece"),
        streamText: () =>
          Stream.fromIterable(parts("Hello there").filter(({ type }) => type !== "text-start" && type !== "text-end"))
      })
      const result = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, bare)))
      )
      assert.strictEqual(result.text, "Hello there")
    }).pipe(Effect.provide(durable)))

  for (const [first, second] of [[agent, whole], [whole, agent]] as const) {
    it.effect(`of a run that was begun ${first === agent ? "with streams" : "without streams"} is replayed by the other`, () =>
      Effect.gen(function*() {
        const broken = yield* told(first, [refund, ScriptedModel.fail(Fault.permanent)])
        assert.isTrue(AiError.isAiError(broken.failure))
        const { refunds, requests, result } = yield* told(second, ["Done."])
        assert.strictEqual(result?.text, "Done.")
        assert.isAtLeast(result?.counters.replayedSteps ?? 0, 2)
        assert.deepStrictEqual([broken.refunds, refunds], [["7"], []])
        assert.deepStrictEqual(requests[0]?.prompt, broken.requests[1]?.prompt)
      }).pipe(Effect.provide(durable)))
  }
})
