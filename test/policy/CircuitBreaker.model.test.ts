import { assert, it } from "@effect/vitest"
import { Deferred, Duration, Effect, type Exit, Fiber, Schema } from "effect"
import { CircuitBreaker, Fault } from "effect-resilience"
import { TestClock } from "effect/testing"

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const ends = {
  success: Effect.void,
  failure: Effect.fail(new Told({ verdict: Fault.transient })),
  defect: Effect.die("bug"),
  ignored: Effect.fail(new Told({ verdict: Fault.permanent })),
  interrupted: Effect.interrupt
} satisfies Record<string, Effect.Effect<void, Told>>

type End = keyof typeof ends

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Command = Schema.Struct({
  dice: upTo(99),
  which: upTo(5),
  end: Schema.Literals(["success", "failure", "defect", "ignored", "interrupted"]),
  millis: Schema.Literals([1, 100, 400, 500, 999, 1000, 3000])
})

/** Mostly calls and their ends: what starts everything anew has to be rare for the rest to be seen. */
const action = (dice: number) => {
  if (dice < 45) return "start"
  if (dice < 82) return "end"
  if (dice < 96) return "wait"
  if (dice < 97) return "hold"
  return dice < 99 ? "release" : "reset"
}

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(200))

const Setup = Schema.Struct({
  rule: Schema.Literals(["consecutive", "rate", "rateOver", "slowRate"]),
  permits: Schema.Literals([1, 2]),
  successes: Schema.Literals([1, 2]),
  spare: Schema.Literals([0, 1])
})

interface Past {
  readonly failed: boolean
  readonly slow: boolean
  readonly at: number
}

const openFor = 1000
const probeTimeout = 3000
const slowerThan = 500
const span = 8000
const size = 4
const minimumCalls = 3

const options = (setup: typeof Setup.Type): CircuitBreaker.Options => {
  const rules = {
    consecutive: CircuitBreaker.consecutive(2),
    rate: CircuitBreaker.rate({ size, minimumCalls, threshold: 0.5 }),
    rateOver: CircuitBreaker.rateOver({ window: span, minimumCalls, threshold: 0.5 }),
    slowRate: CircuitBreaker.slowRate({ slowerThan, size, minimumCalls, threshold: 0.5 })
  }
  return {
    trip: rules[setup.rule],
    openFor,
    probeTimeout,
    halfOpenPermits: setup.permits,
    successThreshold: setup.successes,
    successOutOf: setup.successes + setup.spare
  }
}

const half = (hits: ReadonlyArray<boolean>) => {
  const count = hits.filter(Boolean).length
  return hits.length >= minimumCalls && count > 0 && count / hits.length >= 0.5
}

/** What each rule says of the whole past of a closed circuit. */
const trips = (rule: (typeof Setup.Type)["rule"], past: ReadonlyArray<Past>, now: number): boolean => {
  switch (rule) {
    case "consecutive":
      return past.length >= 2 && past.slice(-2).every(({ failed }) => failed)
    case "rate":
      return half(past.slice(-size).map(({ failed }) => failed))
    case "slowRate":
      return half(past.slice(-size).map(({ slow }) => slow))
    case "rateOver": {
      const bucket = (time: number) => Math.floor(time / (span / 20))
      return half(past.filter(({ at }) => bucket(now) - bucket(at) < 20).map(({ failed }) => failed))
    }
  }
}

/** The circuit as one would tell it: generations counted, everything remembered, everything recomputed. */
class Model {
  state: "Closed" | "Open" | "HalfOpen" = "Closed"
  generation = 0
  past: Array<Past> = []
  probes: Array<{ readonly succeeded: boolean }> = []
  running: Array<{ readonly startedAt: number; readonly generation: number }> = []
  until = 0
  openings = 0
  closedAt = 0
  holds = 0
  readonly setup: typeof Setup.Type
  constructor(setup: typeof Setup.Type) {
    this.setup = setup
  }
  enter(state: "Closed" | "Open" | "HalfOpen") {
    this.state = state
    this.generation++
    this.past = []
    this.probes = []
  }
  probing(now: number) {
    return this.running.filter(({ generation, startedAt }) =>
      generation === this.generation && now - startedAt < probeTimeout
    )
  }
  open(now: number) {
    if (this.state === "Closed" && now - this.closedAt >= (this.openings === 0 ? 0 : openFor)) this.openings = 0
    this.openings++
    this.enter("Open")
    this.until = now + openFor
  }
  /** The call that was admitted, or how long the refused one was told to wait. */
  start(now: number) {
    if (this.holds > 0) return { refused: "Isolated", wait: undefined }
    if (this.state === "Open" && now < this.until) return { refused: "Open", wait: this.until - now }
    if (this.state === "Open") this.enter("HalfOpen")
    if (this.state === "HalfOpen" && this.probing(now).length >= this.setup.permits) {
      const oldest = Math.min(...this.probing(now).map(({ startedAt }) => startedAt))
      return { refused: "HalfOpen", wait: oldest + probeTimeout - now }
    }
    const call = { startedAt: now, generation: this.generation }
    this.running.push(call)
    return call
  }
  end(call: { readonly startedAt: number; readonly generation: number }, end: End, now: number) {
    this.running = this.running.filter((other) => other !== call)
    if (call.generation !== this.generation || end === "ignored" || end === "interrupted") return
    const failed = end !== "success"
    const slow = now - call.startedAt > slowerThan
    if (this.state === "Closed") {
      this.past.push({ failed, slow, at: now })
      if (trips(this.setup.rule, this.past, now)) this.open(now)
    } else if (now - call.startedAt < probeTimeout) {
      this.probes.push({ succeeded: !failed && !(slow && this.setup.rule === "slowRate") })
      const succeeded = this.probes.filter((probe) => probe.succeeded).length
      if (succeeded >= this.setup.successes) {
        this.enter("Closed")
        this.closedAt = now
      } else if (this.probes.length - succeeded > this.setup.spare) {
        this.open(now)
      }
    }
  }
  hold(now: number) {
    if (this.holds++ > 0) return
    if (this.state === "HalfOpen") {
      this.enter("Open")
      this.until = now
    } else if (this.state === "Closed") {
      this.generation++
    }
  }
  reset(now: number) {
    this.enter("Closed")
    this.openings = 0
    this.closedAt = now
  }
  view(now: number) {
    if (this.holds > 0) return { state: "Isolated", a: this.holds, b: 0 }
    switch (this.state) {
      case "Closed":
        return { state: "Closed", a: this.past.length, b: this.past.filter(({ failed }) => failed).length }
      case "Open":
        return { state: "Open", a: Math.max(0, this.until - now), b: this.openings }
      case "HalfOpen":
        return { state: "HalfOpen", a: this.probing(now).length, b: this.probes.length }
    }
  }
}

const view = (state: CircuitBreaker.State) => {
  switch (state._tag) {
    case "Isolated":
      return { state: "Isolated", a: state.holders, b: 0 }
    case "Open":
      return { state: "Open", a: Duration.toMillis(state.retryAfter), b: state.openings }
    case "HalfOpen":
      return { state: "HalfOpen", a: state.probes, b: state.successes + state.failures }
    case "Closed":
    case "MetricsOnly":
      return { state: "Closed", a: state.calls, b: state.failures }
  }
}

it.effect.prop(
  "behaves like its model under random calls, outcomes, interruptions, holds and clock moves",
  { setup: Setup, commands: Commands },
  ({ commands, setup }) =>
    Effect.scoped(Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(options(setup))
      const model = new Model(setup)
      let now = 0
      const calls: Array<{
        readonly modelled: { readonly startedAt: number; readonly generation: number }
        readonly gate: Deferred.Deferred<Effect.Effect<void, Told>>
        readonly fiber: Fiber.Fiber<Exit.Exit<void, Told | CircuitBreaker.CircuitOpen>>
      }> = []
      const holds: Array<CircuitBreaker.Hold> = []

      for (const command of commands) {
        switch (action(command.dice)) {
          case "start": {
            const gate = yield* Deferred.make<Effect.Effect<void, Told>>()
            const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
              breaker.protect("k"),
              Effect.exit,
              Effect.forkChild({ startImmediately: true })
            )
            const modelled = model.start(now)
            if ("refused" in modelled) {
              const error = yield* Effect.flip(Effect.flatten(Fiber.join(fiber)))
              assert.instanceOf(error, CircuitBreaker.CircuitOpen)
              const wait = error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
              assert.deepStrictEqual({ refused: error.state, wait }, modelled)
            } else {
              assert.isUndefined(fiber.pollUnsafe())
              calls.push({ modelled, gate, fiber })
            }
            break
          }
          case "end": {
            const [call] = calls.splice(command.which % Math.max(1, calls.length), 1)
            if (call === undefined) break
            if (command.end === "interrupted") yield* Fiber.interrupt(call.fiber)
            else yield* Deferred.succeed(call.gate, ends[command.end])
            yield* Fiber.await(call.fiber)
            model.end(call.modelled, command.end, now)
            break
          }
          case "wait": {
            yield* TestClock.adjust(command.millis)
            now += command.millis
            break
          }
          case "hold": {
            holds.push(yield* breaker.isolate("k"))
            model.hold(now)
            break
          }
          case "release": {
            const [hold] = holds.splice(command.which % Math.max(1, holds.length), 1)
            if (hold === undefined) break
            yield* hold.release
            yield* hold.release
            model.holds--
            break
          }
          case "reset": {
            yield* breaker.reset("k")
            model.reset(now)
            break
          }
        }
        assert.deepStrictEqual(view(yield* breaker.state("k")), model.view(now), JSON.stringify(command))
      }
    })).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: 400 }, timeout: 30_000 }
)
