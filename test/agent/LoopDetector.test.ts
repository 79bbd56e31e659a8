import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Agent, Fault, LoopDetector, Telemetry } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { runs } from "../support/runs.ts"
import { call, durable } from "./support.ts"

const seen = (tool: string, result = "same", isFailure = false): LoopDetector.Observed => ({
  tool,
  call: `${tool}()`,
  result,
  isFailure
})

/** The loops found in these turns, with the turn (from 1) in which each was. */
const loops = (detector: LoopDetector.LoopDetector, turns: ReadonlyArray<ReadonlyArray<LoopDetector.Observed>>) => {
  let state = LoopDetector.initial
  return turns.flatMap((calls, index) => {
    const next = LoopDetector.observe(detector, state, calls)
    state = next.state
    return next.loop === undefined ? [] : [[index + 1, next.loop] as const]
  })
}

const defaults = LoopDetector.make()

describe("LoopDetector", () => {
  it("finds a call that has the same result for the third time in a row", () => {
    assert.deepStrictEqual(loops(defaults, [[seen("A")], [seen("A")], [seen("A")]]), [
      [3, { _tag: "Repeated", tools: ["A"], times: 3 }]
    ])
    assert.deepStrictEqual(loops(defaults, [[seen("A"), seen("A"), seen("A")]]), [
      [1, { _tag: "Repeated", tools: ["A"], times: 3 }]
    ])
    assert.deepStrictEqual(loops(defaults, [[seen("A", "1")], [seen("A", "2")], [seen("A", "3")]]), [])
  })

  it("finds cycles of up to four turns when they come for the second time", () => {
    for (const length of [2, 3, 4]) {
      const turns = ["A", "B", "C", "D"].slice(0, length).map((tool) => [seen(tool)])
      const loose = LoopDetector.make({ noProgress: Infinity })
      assert.deepStrictEqual(loops(loose, [[seen("X")], ...turns, ...turns]), [
        [1 + 2 * length, { _tag: "Cycle", tools: ["A", "B", "C", "D"].slice(0, length), length, times: 2 }]
      ])
    }
  })

  it("takes the calls of a turn in any order", () => {
    const turns = [[seen("A"), seen("B")], [seen("C")], [seen("B"), seen("A")], [seen("C")]]
    assert.deepStrictEqual(loops(defaults, turns), [[4, {
      _tag: "Cycle",
      tools: ["A", "B", "C"],
      length: 2,
      times: 2
    }]])
  })

  it("finds turns that bring nothing new, failures among them", () => {
    const failing = Array.from({ length: 5 }, (_, index) => [seen("A", `no ${index}`, true)])
    assert.deepStrictEqual(loops(defaults, failing), [[5, { _tag: "NoProgress", tools: ["A"], turns: 5 }]])
    assert.deepStrictEqual(loops(defaults, failing.toSpliced(2, 0, [seen("B", "new")])), [])
  })

  it("counts anew after a loop, and asks to stop after the last warning", () => {
    const turns = Array.from({ length: 6 }, () => [seen("A")])
    assert.deepStrictEqual(loops(defaults, turns).map(([turn]) => turn), [3, 6])
    let state = LoopDetector.initial
    const stops = turns.map((calls) => {
      state = LoopDetector.observe(defaults, state, calls).state
      return LoopDetector.mustStop(defaults, state)
    })
    assert.deepStrictEqual(stops, [false, false, false, false, false, true])
  })

  it("refuses rules that cannot be one, naming the option", () => {
    for (const option of ["repeats", "cycles", "noProgress", "warnings"] as const) {
      for (const value of [-1, 0.5, NaN]) {
        try {
          LoopDetector.make({ [option]: value })
          assert.fail(`${option}: ${value} was accepted`)
        } catch (error) {
          assert.isTrue(error instanceof Fault.InvalidConfig && error.option === option)
        }
      }
    }
  })
})

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Turns = Schema.Array(
  Schema.Array(Schema.Struct({ tool: upTo(2), result: upTo(1), isFailure: Schema.Boolean })).check(
    Schema.isMaxLength(2)
  )
).check(Schema.isMaxLength(40))
const Rules = Schema.Struct({ repeats: upTo(3), cycles: upTo(2), noProgress: upTo(6) })

/** Everything is kept and looked at afresh with every turn: nothing of how the detector works. */
const reference = (
  detector: LoopDetector.LoopDetector,
  turns: ReadonlyArray<ReadonlyArray<LoopDetector.Observed>>
): ReadonlyArray<readonly [number, LoopDetector.Loop["_tag"]]> => {
  const found: Array<readonly [number, LoopDetector.Loop["_tag"]]> = []
  let from = 0
  const id = (one: LoopDetector.Observed) => `${one.call} ${one.result}`
  const set = (turn: ReadonlyArray<LoopDetector.Observed>) => Array.from(new Set(turn.map(id))).toSorted().join("|")
  for (let now = 0; now < turns.length; now++) {
    const all = turns.slice(from, now + 1).filter((turn) => turn.length > 0)
    const last = all.at(-1)
    if (turns[now]?.length === 0 || last === undefined) continue
    const inARow = (one: LoopDetector.Observed) => {
      let count = 0
      for (const turn of all.toReversed()) {
        const here = turn.filter((other) => id(other) === id(one)).length
        if (here === 0) break
        count += here
      }
      return count
    }
    const cycle = [2, 3, 4].some((length) => {
      const tail = all.slice(-length * detector.cycles).map(set)
      return tail.length === length * detector.cycles && tail.every((key, index) => key === tail[index % length])
    })
    const isNew = (position: number) =>
      turns[position]?.some((one) =>
        !one.isFailure && !turns.slice(0, position).some((turn) => turn.some((other) => id(other) === id(one)))
      )
    let idle = 0
    for (let position = now; position >= from; position--) {
      if (turns[position]?.length === 0) continue
      if (isNew(position)) break
      idle++
    }
    const tag = last.some((one) => inARow(one) >= detector.repeats)
      ? "Repeated"
      : cycle
      ? "Cycle"
      : idle >= detector.noProgress
      ? "NoProgress"
      : undefined
    if (tag === undefined) continue
    found.push([now + 1, tag])
    from = now + 1
  }
  return found
}

describe("the detector, for any turns", () => {
  it.effect.prop(
    "finds what a model that keeps everything finds, and remembers no more than its bounds",
    { turns: Turns, rules: Rules },
    ({ rules, turns }) =>
      Effect.sync(() => {
        const detector = LoopDetector.make({
          repeats: rules.repeats + 2,
          cycles: rules.cycles + 2,
          noProgress: rules.noProgress + 1
        })
        const calls = turns.map((turn) =>
          turn.map(({ isFailure, result, tool }) => seen(`T${tool}`, String(result), isFailure))
        )
        const found = loops(detector, calls).map(([turn, { _tag }]) => [turn, _tag] as const)
        assert.deepStrictEqual(found, reference(detector, calls))
        let state = LoopDetector.initial
        for (const turn of calls) {
          const before = JSON.stringify(state)
          const one = LoopDetector.observe(detector, state, turn)
          assert.deepStrictEqual(LoopDetector.observe(detector, state, turn), one, "the same for the same")
          assert.strictEqual(JSON.stringify(state), before, "and the state before is what it was")
          state = one.state
          assert.isAtMost(state.turns.length, LoopDetector.longestCycle * detector.cycles)
          assert.isAtMost(state.known.size, LoopDetector.knownResults)
        }
      }),
    { arbitrary: { runs: runs(300, 20_000), seed: 1 }, timeout: runs(30_000, 600_000) }
  )

  it("forgets old results instead of growing", () => {
    let state = LoopDetector.initial
    for (let turn = 0; turn < 1_000; turn++) {
      state = LoopDetector.observe(defaults, state, [seen("A", String(turn))]).state
    }
    assert.strictEqual(state.known.size, LoopDetector.knownResults)
    assert.strictEqual(state.inARow.size, 1)
  })
})

const Look = Tool.make("Look", {
  parameters: Schema.Struct({ a: Schema.Finite, b: Schema.Finite }),
  success: Schema.String
}).annotate(Tool.Readonly, true)
const toolkit = Toolkit.make(Look)
const handlers = toolkit.toLayer({ Look: () => Effect.succeed("nothing") })

// The same arguments, in one order of keys and the other.
const stubborn: ScriptedModel.Script = (request) => {
  if (request.toolChoice === "none") return "I looked, there is nothing."
  const turns = request.prompt.content.filter((message) => message.role === "tool").length
  return call(`call_${turns}`, "Look", turns % 2 === 0 ? { a: 1, b: 2 } : { b: 2, a: 1 })
}
const options = { runId: "run-1", prompt: "Look" }

describe("an agent that goes round in circles", () => {
  const agent = Agent.make({ name: "scout", instructions: "", toolkit })

  it.effect("is told first, then stopped with its best answer, and says so", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const result = yield* Agent.run(agent, options).pipe(
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
      )
      assert.isTrue(result.completion === "looped")
      if (result.completion !== "looped") return
      assert.deepStrictEqual(result.loop, { _tag: "Repeated", tools: ["Look"], times: 3 })
      assert.strictEqual(result.text, "I looked, there is nothing.")
      assert.strictEqual(result.value, "I looked, there is nothing.")
      assert.strictEqual(result.counters.loops, 2)
      assert.strictEqual(result.counters.iterations, 6)
      const told = (yield* ScriptedModel.requests).map(({ prompt }) =>
        prompt.content.filter((message) =>
          message.role === "user" && JSON.stringify(message.content).includes("round in circles")
        ).length
      )
      assert.deepStrictEqual(told, [0, 0, 0, 1, 1, 1, 2])
      assert.deepStrictEqual(
        events.flatMap((event) => event._tag === "LoopDetected" ? [[event.loop, event.stopped]] : []),
        [["Repeated", false], ["Repeated", true]]
      )
      const again = yield* Agent.run(agent, options)
      assert.deepStrictEqual({ ...again, counters: result.counters, turns: [] }, { ...result, turns: [] })
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(stubborn)))))

  it.effect("takes the same decisions when it is resumed after each step", () =>
    Effect.gen(function*() {
      const result = yield* CrashPoints.alwaysReplay(Agent.run(agent, options))
      assert.strictEqual(result.completion, "looped")
      assert.strictEqual(result.counters.loops, 2)
      assert.strictEqual((yield* ScriptedModel.requests).length, 7)
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(stubborn)))))

  it.effect("fails with LoopDetected where the last answer fails", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Agent.run(agent, options))
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "LoopDetected")
      assert.include(error.message, "the same call (Look) with the same arguments had the same result 3 times in a row")
    }).pipe(Effect.provide(Layer.mergeAll(
      durable,
      handlers,
      ScriptedModel.layer((request) =>
        request.toolChoice === "none"
          ? ScriptedModel.fail(Fault.permanent)
          : call(`call_${request.index}`, "Look", { a: 1, b: 2 })
      )
    ))))

  it.effect("goes on to its budget where it looks for no loops", () =>
    Effect.gen(function*() {
      const result = yield* Agent.run(Agent.make({ name: "scout", instructions: "", toolkit, loops: false }), options)
      assert.strictEqual(result.completion, "graceful")
      assert.strictEqual(result.counters.loops, 0)
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(stubborn)))))
})
