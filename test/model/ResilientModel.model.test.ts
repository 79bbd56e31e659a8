import { assert, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, Layer, Option, Random, Schema, Stream } from "effect"
import { AdaptiveLimit, Backoff, Bulkhead, Fault, Policy, Quota, ResilientModel } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError, LanguageModel, type Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

/** What becomes of one request: how long it waits before its first part and between two, and how it ends. */
const Try = Schema.Struct({
  before: Schema.Literals([0, 0, 10, 900, 2_500, 60_000]),
  between: Schema.Literals([0, 0, 10, 700, 40_000]),
  ends: Schema.Literals([
    "whole",
    "whole",
    "overloaded",
    "throttled",
    "transient",
    "ambiguous",
    "permanent",
    "refused",
    "unfinished",
    "defect"
  ]),
  /** After how many parts it ends that way, where that is no good end. */
  after: upTo(6)
})

const Setup = Schema.Struct({
  tries: Schema.Array(Try).check(Schema.isMinLength(1), Schema.isMaxLength(6)),
  retry: Schema.Literals([0, 2, 4]),
  timeout: Schema.Literals([0, 0, 1_000, 5_000]),
  hedge: Schema.Literals([0, 0, 500, 3_000]),
  deadline: Schema.Literals([0, 0, 0, 8_000, 100_000]),
  guards: Schema.Literals(["none", "circuit", "bulkhead", "limit", "quota", "all"])
})

const Caller = Schema.Struct({
  at: upTo(5_000),
  method: Schema.Literals(["generateText", "streamText", "streamText", "generateObject"]),
  interruptedAfter: Schema.Literals([0, 0, 0, 1, 300, 950, 3_000]),
  stopsAfter: Schema.Literals([0, 0, 0, 1, 3])
})

const Plan = Schema.Struct({
  models: Schema.Array(Setup).check(Schema.isMinLength(1), Schema.isMaxLength(3)),
  callers: Schema.Array(Caller).check(Schema.isMinLength(1), Schema.isMaxLength(5)),
  buffer: Schema.Boolean,
  seed: upTo(1_000_000)
})

type Setup = typeof Setup.Type
type Try = typeof Try.Type

const words = 4

const failureOf = (ends: Try["ends"]): Effect.Effect<never, AiError.AiError> => {
  switch (ends) {
    case "overloaded":
      return Effect.fail(ScriptedModel.fail(Fault.overloaded()))
    case "throttled":
      return Effect.fail(ScriptedModel.fail(Fault.throttled("1 second")))
    case "transient":
      return Effect.fail(ScriptedModel.fail(Fault.transient))
    case "ambiguous":
      return Effect.fail(ScriptedModel.fail(Fault.ambiguous))
    case "permanent":
      return Effect.fail(ScriptedModel.fail(Fault.permanent))
    case "refused":
      return Effect.fail(ScriptedModel.fail(Fault.refused))
    default:
      return Effect.die("a bug")
  }
}

/** The words of one answer say which model gave it, and at which try. */
const answerOf = (model: number, at: number) => Array.from({ length: words }, (_, n) => `${model}.${at}.${n} `)

const partsOf = (model: number, at: number): ReadonlyArray<Response.StreamPartEncoded> => [
  { type: "response-metadata", id: `${model}.${at}` },
  { type: "text-start", id: "0" },
  ...answerOf(model, at).map((delta) => ({ type: "text-delta", id: "0", delta }) as const),
  { type: "text-end", id: "0" },
  {
    type: "finish",
    reason: "stop",
    usage: {
      inputTokens: { uncached: 3, total: 3, cacheRead: 0, cacheWrite: 0 },
      outputTokens: { total: 4, text: 4, reasoning: 0 }
    }
  }
]

const makeModel = Effect.fnUntraced(function*(model: number, { tries }: Setup, open: { count: number }) {
  let calls = 0
  const held = Effect.acquireRelease(
    Effect.sync(() => {
      open.count++
    }),
    () =>
      Effect.sync(() => {
        open.count--
      })
  )
  return yield* LanguageModel.make({
    generateText: ({ responseFormat }) =>
      Effect.gen(function*() {
        const at = calls++
        yield* held
        const how = tries[at % tries.length]
        assert.isDefined(how)
        yield* Effect.sleep(how.before + how.between)
        const text = answerOf(model, at).join("")
        if (how.ends === "unfinished") return [{ type: "text" as const, text }]
        if (how.ends !== "whole") return yield* failureOf(how.ends)
        const content = responseFormat.type === "json" ? JSON.stringify({ text }) : text
        return [...ScriptedModel.text(content, { usage: { inputTokens: 3, outputTokens: 4 } })]
      }).pipe(Effect.scoped),
    streamText: () =>
      Stream.unwrap(Effect.gen(function*() {
        const at = calls++
        yield* held
        const how = tries[at % tries.length]
        assert.isDefined(how)
        const all = partsOf(model, at)
        const given = how.ends === "whole"
          ? all
          : how.ends === "unfinished"
          ? all.slice(0, -1)
          : all.slice(0, how.after)
        const parts = Stream.fromIterable(given.entries(), { chunkSize: 1 }).pipe(
          Stream.mapEffect(([n, part]) =>
            n < 2 ? Effect.as(Effect.sleep(n === 0 ? how.before : 0), part) : Effect.as(Effect.sleep(how.between), part)
          )
        )
        return how.ends === "whole" || how.ends === "unfinished"
          ? parts
          : Stream.concat(parts, Stream.fromEffect(failureOf(how.ends)))
      }))
  })
})

const policyOf = (model: number, { deadline, guards, hedge, retry, timeout }: Setup) => {
  const has = (guard: Setup["guards"]) => guards === guard || guards === "all"
  return Policy.make({
    name: `model ${model}`,
    deadline: deadline === 0 ? undefined : deadline,
    retry: retry === 0
      ? undefined
      : { backoff: Backoff.constant({ delay: "1 second" }), maxAttempts: retry, maxElapsed: "10 minutes" },
    quota: has("quota") ? { requests: { limit: 60, burst: 2 }, maxWait: "10 seconds" } : undefined,
    limit: has("limit") ? { initial: 2, maxWait: "30 seconds" } : undefined,
    bulkhead: has("bulkhead") ? { maxConcurrent: 1, maxQueue: 2 } : undefined,
    circuit: has("circuit") ? { failures: 3, openFor: "10 seconds" } : undefined,
    hedge: hedge === 0 ? undefined : { delay: hedge },
    timeout: timeout === 0 ? undefined : timeout
  })
}

interface Seen {
  readonly words: Array<string>
  readonly parts: Array<{ readonly type: string; readonly metadata?: unknown }>
  exit: Exit.Exit<unknown, unknown> | undefined
}

const Text = Schema.Struct({ text: Schema.String })

const call = (
  model: LanguageModel.LanguageModel,
  { method, stopsAfter }: typeof Caller.Type,
  seen: Seen
): Effect.Effect<unknown, unknown> => {
  const whole = (text: string, content: Seen["parts"]) => {
    seen.words.push(...text.match(/\S+ /g) ?? [])
    seen.parts.push(...content)
  }
  switch (method) {
    case "generateText":
      return Effect.map(model.generateText({ prompt: "?" }), ({ content, text }) => whole(text, content))
    case "generateObject":
      return Effect.map(
        model.generateObject({ prompt: "?", schema: Text }),
        ({ content, value }) => whole(value.text, content)
      )
    case "streamText": {
      const parts = model.streamText({ prompt: "?" })
      return Stream.runForEach(stopsAfter === 0 ? parts : Stream.take(parts, stopsAfter), (part) =>
        Effect.sync(() => {
          seen.parts.push(part)
          if (part.type === "text-delta") seen.words.push(part.delta)
        }))
    }
  }
}

const run = Effect.fnUntraced(function*(plan: typeof Plan.Type) {
  const services = yield* Layer.build(Policy.layer)
  const open = { count: 0 }
  const entries: Array<ResilientModel.Entry<never, never, unknown, Layer.Success<typeof Policy.layer>>> = []
  for (const [at, setup] of plan.models.entries()) {
    entries.push({ label: `model ${at}`, model: yield* makeModel(at, setup, open), policy: policyOf(at, setup) })
  }
  const [first, ...rest] = entries
  assert.isDefined(first)
  const model = yield* Effect.provideContext(
    ResilientModel.makeFallback([first, ...rest], { buffer: plan.buffer }),
    services
  )
  const all = plan.callers.map((): Seen => ({ words: [], parts: [], exit: undefined }))
  const fibers = yield* Effect.forEach(plan.callers, (caller, at) => {
    const seen = all[at]
    assert.isDefined(seen)
    const asked = call(model, caller, seen).pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          seen.exit = exit
        })
      )
    )
    const bounded = caller.interruptedAfter === 0
      ? asked
      : Effect.timeoutOption(asked, Duration.millis(caller.interruptedAfter))
    return Effect.forkChild(Effect.exit(Effect.andThen(Effect.sleep(caller.at), bounded)), { startImmediately: true })
  })
  yield* Effect.repeat(TestClock.adjust("10 seconds"), {
    until: () => Effect.sync(() => fibers.every((fiber) => fiber.pollUnsafe() !== undefined)),
    times: 1_000
  })
  for (const fiber of fibers) yield* Fiber.join(fiber)
  return { all, open, services }
})

it.effect.prop(
  "a caller sees one whole answer or one typed failure, never parts of two answers, and nothing is left held",
  { plan: Plan },
  ({ plan }) =>
    Effect.gen(function*() {
      const { all, open, services } = yield* run(plan)
      for (const [at, { exit, parts, words: seen }] of all.entries()) {
        const caller = plan.callers[at]
        assert.isDefined(caller)
        const [word] = seen
        const [from, number] = word?.split(".") ?? []
        const answer = answerOf(Number(from), Number(number))
        assert.deepStrictEqual(seen, answer.slice(0, seen.length), "a part of one answer, from its beginning")
        const provenance = ResilientModel.provenance(parts)
        const isStopped = caller.method === "streamText" && caller.stopsAfter > 0
        const isFinished = parts.some(({ type }) => type === "finish")
        if (exit !== undefined && Exit.isSuccess(exit)) {
          if (isStopped && !isFinished) continue
          assert.strictEqual(seen.length, words, "a whole answer")
          assert.isTrue(isFinished, "with its end")
          assert.strictEqual(Option.getOrThrow(provenance).source, `model ${from}`, "from where it says")
          assert.strictEqual(Option.getOrThrow(provenance).degraded, from !== "0")
          continue
        }
        assert.isFalse(isFinished, "what fails has no end")
        if (exit === undefined || Exit.hasInterrupts(exit)) continue
        const reasons = exit.cause.reasons
        assert.isTrue(
          reasons.every((reason) => Cause.isDieReason(reason) ? reason.defect === "a bug" : Cause.isFailReason(reason)),
          Cause.pretty(exit.cause)
        )
        const failure = reasons.find(Cause.isFailReason)
        if (failure !== undefined) assert.isTrue(AiError.isAiError(failure.error), String(failure.error))
      }
      assert.strictEqual(open.count, 0, "no stream is open")
      const held = yield* Effect.all([
        Bulkhead.Bulkhead.use(({ states }) => states),
        AdaptiveLimit.AdaptiveLimit.use(({ states }) => states),
        Quota.Quota.use(({ states }) => states)
      ]).pipe(Effect.provideContext(services))
      for (const { key, running, waiting } of held.flat()) {
        assert.deepStrictEqual({ key, running, waiting }, { key, running: 0, waiting: 0 })
      }
    }).pipe(Effect.scoped, Effect.provide(TestClock.layer()), Random.withSeed(plan.seed)),
  { arbitrary: { runs: runs(200, 5_000) }, timeout: runs(120_000, 1_800_000) }
)
