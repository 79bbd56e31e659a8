import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Ref, Schema, Stream, SubscriptionRef } from "effect"
import { Agent, Backoff, Checkpoint, EscalationQueue, Fault, Retry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { LanguageModel, type Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { isFull, runs } from "../support/runs.ts"
import { call, counting, durable, kit } from "./support.ts"

const base = { name: "support", instructions: "Be kind.", toolkit: kit } as const
const agent = Agent.make(base)
const resuming = Agent.make({ ...base, stream: { onCut: "resume" } })
const options = { runId: "run-1", prompt: "Refund order 7" }

type Event = Agent.Event<string>

/** All events of a run, how it ended, and what its tools did; the virtual time passes as it has to. */
const watched = <E, R>(by: Agent.Agent<typeof kit.tools, string, E, R>, script: ScriptedModel.Script) =>
  Effect.gen(function*() {
    const { handlers, refunds } = yield* counting
    const events: Array<Event> = []
    const fiber = yield* Agent.stream(by, options).pipe(
      Stream.runForEach((event) => Effect.sync(() => events.push(event))),
      Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))),
      Effect.forkChild({ startImmediately: true })
    )
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("500 millis")
    return { events, exit: yield* Fiber.await(fiber), refunds: yield* Ref.get(refunds) }
  })

const tags = (events: ReadonlyArray<Event>) => events.map(({ _tag }) => _tag)

/** What somebody sees who follows the events as they say. */
const shown = (events: ReadonlyArray<Event>) => {
  const turns: Array<readonly [shown: string, answered: string]> = []
  let text = ""
  for (const event of events) {
    if (event._tag === "TextDelta") text += event.text
    if (event._tag === "AttemptRestarted" || event._tag === "WentBack") text = ""
    if (event._tag === "Answered") {
      turns.push([text, event.text])
      text = ""
    }
  }
  return turns
}

const refund = ScriptedModel.turn("I refund it.", call("1", "Refund", { order: "7" }))

describe("the events of a run", () => {
  it.effect("are its states, the pieces of its answers, its tool calls, and its result at the end", () =>
    Effect.gen(function*() {
      const { events } = yield* watched(agent, [
        ScriptedModel.turn({ type: "reasoning", text: "Hm." }, refund, call("2", "Nope", {})),
        "All done."
      ])
      assert.deepStrictEqual(events.slice(0, -1), [
        { _tag: "StateChanged", state: "running" },
        { _tag: "ReasoningDelta", turn: 1, attempt: 1, text: "Hm." },
        { _tag: "TextDelta", turn: 1, attempt: 1, text: "I" },
        { _tag: "TextDelta", turn: 1, attempt: 1, text: " refund" },
        { _tag: "TextDelta", turn: 1, attempt: 1, text: " it." },
        { _tag: "Answered", turn: 1, text: "I refund it.", finishReason: "tool-calls", replayed: false },
        { _tag: "StateChanged", state: "waitingForTool" },
        { _tag: "ToolStarted", turn: 1, id: "1", name: "Refund", attempt: 1 },
        { _tag: "ToolFinished", turn: 1, id: "1", name: "Refund", isFailure: false, attempts: 1, replayed: false },
        { _tag: "ToolFinished", turn: 1, id: "2", name: "Nope", isFailure: true, attempts: 0, replayed: false },
        { _tag: "StateChanged", state: "running" },
        { _tag: "TextDelta", turn: 2, attempt: 1, text: "All" },
        { _tag: "TextDelta", turn: 2, attempt: 1, text: " done." },
        { _tag: "Answered", turn: 2, text: "All done.", finishReason: "stop", replayed: false },
        { _tag: "StateChanged", state: "completed" }
      ])
      const last = events.at(-1)
      assert.isTrue(
        last?._tag === "Finished" && last.result.text === "All done." && last.result.counters.toolCalls === 2
      )
    }).pipe(Effect.provide(durable)))

  it.effect("are the whole answers alone where the agent asks for them in one piece", () =>
    Effect.gen(function*() {
      const { events } = yield* watched(Agent.make({ ...base, stream: false }), ["Hi there."])
      assert.deepStrictEqual(tags(events), ["StateChanged", "Answered", "StateChanged", "Finished"])
    }).pipe(Effect.provide(durable)))

  it.effect("say of every attempt at a tool call that it began", () =>
    Effect.gen(function*() {
      let left = 2
      const flaky = kit.toLayer({
        Lookup: () => Effect.suspend(() => left-- > 0 ? Effect.die("flaky") : Effect.succeed({ price: 1 })),
        Refund: () => Effect.fail("no")
      })
      const trying = Agent.make({
        ...base,
        tools: { Lookup: { attempts: 3 } },
        policies: {
          tool: (self) =>
            Effect.catchDefect(self, () => Effect.fail({ [Fault.verdictOf]: Fault.transient, message: "flaky" }))
        },
        toolBackoff: Backoff.constant({ delay: 0 })
      })
      const events: Array<Agent.Progress> = []
      yield* Agent.run(trying, { ...options, onEvent: (event) => Effect.sync(() => void events.push(event)) }).pipe(
        Effect.provide(Layer.merge(flaky, ScriptedModel.layer([call("1", "Lookup", { order: "7" }), "Done."])))
      )
      assert.deepStrictEqual(
        events.flatMap((event) => event._tag === "ToolStarted" ? [event.attempt] : []),
        [1, 2, 3]
      )
      assert.deepInclude(events.find(({ _tag }) => _tag === "ToolFinished"), { attempts: 3, isFailure: false })
    }).pipe(Effect.provide(durable)))

  it.effect("mark what is remembered when a run goes on, and repeat no pieces of it", () =>
    Effect.gen(function*() {
      const first = yield* watched(agent, [refund, ScriptedModel.fail(Fault.permanent)])
      assert.isTrue(Exit.isFailure(first.exit))
      assert.deepStrictEqual(first.events.at(-1), { _tag: "StateChanged", state: "failed" })
      const { events, refunds } = yield* watched(agent, ["Done."])
      assert.deepStrictEqual(refunds, [])
      assert.deepStrictEqual(events.slice(1, 5), [
        { _tag: "Answered", turn: 1, text: "I refund it.", finishReason: "tool-calls", replayed: true },
        { _tag: "StateChanged", state: "waitingForTool" },
        { _tag: "ToolFinished", turn: 1, id: "1", name: "Refund", isFailure: false, attempts: 1, replayed: true },
        { _tag: "StateChanged", state: "running" }
      ])
      assert.deepInclude(events.find(({ _tag }) => _tag === "TextDelta"), { turn: 2, attempt: 1 })
    }).pipe(Effect.provide(durable)))

  it.effect("end with the state, and with the error that the run fails with, also where people are asked", () =>
    Effect.gen(function*() {
      const asking = Agent.make({ ...base, approval: "atMostOnce" })
      const { events, exit, refunds } = yield* watched(asking, [refund])
      assert.deepStrictEqual(events.at(-1), { _tag: "StateChanged", state: "waitingForHuman" })
      assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail")
      const error = Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail"
        ? exit.cause.reasons[0].error
        : undefined
      assert.instanceOf(error, Checkpoint.RunSuspended)
      assert.deepStrictEqual(refunds, [])
      const queue = yield* EscalationQueue.EscalationQueue
      for (const { id } of yield* queue.list({ status: "open" })) yield* queue.decide(id, { _tag: "Approve" })
      const resumed = yield* watched(asking, ["Done."])
      assert.strictEqual(resumed.events.at(-1)?._tag, "Finished")
      assert.deepStrictEqual(resumed.refunds, ["7"])
    }).pipe(Effect.provide(durable)))
})

describe("the pieces of an answer", () => {
  const cut = (text: string) => ScriptedModel.streamed(text, { end: "cut" })

  it.effect("say when they are of another attempt, so that what was shown can be dropped", () =>
    Effect.gen(function*() {
      const { events } = yield* watched(agent, [cut("Half an"), cut("Another"), "Whole answer."])
      assert.deepStrictEqual(
        events.flatMap((event) =>
          event._tag === "TextDelta"
            ? [`${event.attempt}:${event.text}`]
            : event._tag === "AttemptRestarted"
            ? [`restart ${event.attempt}`]
            : []
        ),
        ["1:Half", "1: an", "restart 2", "2:Another", "restart 3", "3:Whole", "3: answer."]
      )
    }).pipe(Effect.provide(durable)))

  it.effect("say so too where the guard asks again, and where the time was over", () =>
    Effect.gen(function*() {
      const guarded = Agent.make({
        ...base,
        budget: { wallTime: "10 seconds" },
        stream: { maxCuts: 0 },
        policies: { model: Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 0 }) })) }
      })
      const { events } = yield* watched(guarded, [
        cut("Half an"),
        ScriptedModel.streamed("Too slow", { after: 2, end: "silence" }),
        "In time."
      ])
      assert.deepStrictEqual(
        events.filter(({ _tag }) => _tag === "AttemptRestarted"),
        [{ _tag: "AttemptRestarted", turn: 1, attempt: 2 }, { _tag: "AttemptRestarted", turn: 1, attempt: 3 }]
      )
      assert.deepStrictEqual(shown(events), [["In time.", "In time."]])
    }).pipe(Effect.provide(durable)))

  it.effect("go on where the answer does", () =>
    Effect.gen(function*() {
      const { events } = yield* watched(resuming, [cut("Half an "), "answer."])
      assert.deepInclude(events, { _tag: "AttemptResumed", turn: 1, attempt: 2 })
      assert.deepStrictEqual(shown(events), [["Half an answer.", "Half an answer."]])
    }).pipe(Effect.provide(durable)))

  it.effect("are dropped where the run goes back to an earlier turn", () =>
    Effect.gen(function*() {
      const { events } = yield* watched(agent, [
        call("1", "Lookup", { order: "7" }),
        ScriptedModel.text("I will not.", { finishReason: "content-filter" }),
        "Fine."
      ])
      assert.deepInclude(events, { _tag: "WentBack", turn: 2, error: "AgentError", replayed: false })
      assert.deepStrictEqual(shown(events).at(-1), ["Fine.", "Fine."])
    }).pipe(Effect.provide(durable)))

  it.effect("of a summary are no pieces of the answer", () =>
    Effect.gen(function*() {
      const small = Agent.make({ ...base, compaction: { summary: true } })
      const { events } = yield* watched(small, ({ index, prompt }) => {
        if (index < 6) return ScriptedModel.turn("Looking.", call(String(index), "Lookup", { order: "x".repeat(500) }))
        if (JSON.stringify(prompt.content.at(-1)).includes("Sum up")) return "A summary of it all."
        return index === 6 ? ScriptedModel.fail(Fault.contextOverflow) : "Done."
      })
      assert.isTrue(events.at(-1)?._tag === "Finished")
      assert.notInclude(JSON.stringify(events), "summary")
      assert.deepStrictEqual(shown(events).at(-1), ["Done.", "Done."])
    }).pipe(Effect.provide(durable)))

  const Piece = Schema.Struct({
    text: Schema.Literals(["One", "One two ", "", " ", "One two three"]),
    end: Schema.Literals(["whole", "cut", "silence", "Transient"]),
    after: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))
  })

  it.effect.prop(
    "make up the answer, however often it was cut, asked for again and gone on with",
    { pieces: Schema.Array(Piece).check(Schema.isMaxLength(4)), resume: Schema.Boolean },
    ({ pieces, resume }) =>
      Effect.gen(function*() {
        const { events, exit } = yield* watched(resume ? resuming : agent, ({ index }) => {
          const piece = pieces[index]
          if (piece === undefined) return "The end."
          const { after, end, text } = piece
          const how = end === "Transient" ? { _tag: end } : end
          return ScriptedModel.streamed(text, { after, end: how })
        })
        const turns = shown(events)
        for (const [seen, answered] of turns) assert.strictEqual(seen, answered)
        assert.strictEqual(turns.length, Exit.isSuccess(exit) ? 1 : 0)
      }).pipe(Effect.provide(Layer.fresh(durable))),
    { arbitrary: { runs: runs(100, 3_000), seed: 1 }, timeout: runs(60_000, 900_000) }
  )
})

describe("somebody who stops reading", () => {
  const usage = {
    inputTokens: { uncached: 1, total: 1, cacheRead: 0, cacheWrite: 0 },
    outputTokens: { total: 1, text: 1, reasoning: 0 }
  }

  /** A model that counts what it has given and what it has open. */
  const endless = (open: { count: number; given: number }) =>
    LanguageModel.make({
      generateText: () => Effect.die("not in one piece"),
      streamText: () =>
        Stream.unwrap(Effect.as(
          Effect.acquireRelease(Effect.sync(() => open.count++), () => Effect.sync(() => open.count--)),
          Stream.forever(Stream.sync((): Response.StreamPartEncoded => {
            open.given++
            return { type: "text-delta", id: "0", delta: "more " }
          }))
        ))
    })

  it.effect("interrupts the run and its stream, and the run can go on", () =>
    Effect.gen(function*() {
      const open = { count: 0, given: 0 }
      const { handlers } = yield* counting
      const state = yield* SubscriptionRef.make<Agent.State>("idle")
      const model = yield* endless(open)
      const [first] = yield* Agent.stream(agent, { ...options, state }).pipe(
        Stream.filter(({ _tag }) => _tag === "TextDelta"),
        Stream.take(1),
        Stream.runCollect,
        Effect.provide(Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, model)))
      )
      assert.deepInclude(first, { text: "more " })
      assert.strictEqual(open.count, 0)
      assert.strictEqual(yield* SubscriptionRef.get(state), "idle")
      const { events } = yield* watched(agent, ["Done."])
      assert.strictEqual(events.at(-1)?._tag, "Finished")
    }).pipe(Effect.provide(durable)))

  it.effect("for a while holds up the run: no more than 64 events wait", () =>
    Effect.gen(function*() {
      const open = { count: 0, given: 0 }
      const { handlers } = yield* counting
      const model = yield* endless(open)
      const reading = yield* Deferred.make<void>()
      const fiber = yield* Agent.stream(agent, options).pipe(
        Stream.runForEach(() => Effect.andThen(Deferred.succeed(reading, undefined), Effect.never)),
        Effect.provide(Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, model))),
        Effect.forkChild({ startImmediately: true })
      )
      yield* Deferred.await(reading)
      yield* TestClock.adjust("1 minute")
      assert.isBelow(open.given, 200)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(open.count, 0)
    }).pipe(Effect.provide(durable)))

  it.effect("of a run that is interrupted at any moment leaves nothing running", () =>
    interruptEverywhere({
      moments: isFull ? undefined : ["yield"],
      arrange: Effect.gen(function*() {
        const open = { count: 0, given: 0 }
        const { handlers, refunds } = yield* counting
        const model = yield* LanguageModel.make({
          generateText: () => Effect.die("not in one piece"),
          streamText: ({ prompt }) =>
            Stream.unwrap(Effect.as(
              Effect.acquireRelease(Effect.sync(() => open.count++), () => Effect.sync(() => open.count--)),
              Stream.fromIterable<Response.StreamPartEncoded>([
                { type: "text-start", id: "0" },
                { type: "text-delta", id: "0", delta: "Hi" },
                { type: "text-end", id: "0" },
                ...(prompt.content.some(({ role }) => role === "tool") ? [] : [call("1", "Refund", { order: "7" })]),
                { type: "finish", reason: "stop", usage }
              ], { chunkSize: 1 }).pipe(Stream.mapEffect((part) => Effect.as(Effect.sleep("1 second"), part)))
            ))
        })
        return {
          effect: Stream.runDrain(Agent.stream(agent, options)).pipe(
            Effect.provide(Layer.merge(handlers, Layer.succeed(LanguageModel.LanguageModel, model))),
            Effect.provide(Layer.fresh(durable))
          ),
          check: () =>
            Effect.gen(function*() {
              assert.strictEqual(open.count, 0, "open streams")
              assert.isAtMost((yield* Ref.get(refunds)).length, 1)
            })
        }
      })
    }), 120_000)
})
