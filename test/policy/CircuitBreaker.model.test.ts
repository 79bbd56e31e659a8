import { assert, it } from "@effect/vitest"
import { Deferred, Duration, Effect, type Exit, Fiber, Schema } from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const ends = {
  success: Effect.void,
  failure: Effect.fail(new Told({ verdict: Fault.transient })),
  later: Effect.fail(new Told({ verdict: Fault.overloaded(1700) })),
  defect: Effect.die("bug"),
  ignored: Effect.fail(new Told({ verdict: Fault.permanent })),
  interrupted: Effect.interrupt
} satisfies Record<string, Effect.Effect<void, Told>>

type End = keyof typeof ends

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

/** `named` is configured by name, and the others are not. */
const keys = ["a", "b", "named"] as const

const Setup = Schema.Struct({
  rule: Schema.Literals(["consecutive", "rate", "rateOver", "slowRate"]),
  size: Schema.Literals([4, 6]),
  openFor: Schema.Literals([1000, 1500]),
  permits: Schema.Literals([1, 2, 3]),
  successes: Schema.Literals([1, 2]),
  spare: Schema.Literals([0, 1]),
  probeTimeout: Schema.Literals([2000, 3000]),
  metricsOnly: Schema.Literals([false, false, false, true])
})
type Setup = typeof Setup.Type

/** A setup, and what callers make of it. */
interface Means extends Omit<Setup, "openFor"> {
  readonly openFor: number
}

const anyKey = ["a", "a", "a", "b", "named"] as const
const anyEnd = ["success", "success", "failure", "failure", "later", "defect", "ignored", "interrupted"] as const
const anyMillis = [1, 100, 400, 500, 999, 1000, 3000] as const
const anyAsks = [0, 0, 0, 0, 0, 0, 1, 2] as const

/** What one number says: to generate a number is ten times as fast as to generate a struct. */
const commandOf = (number: number) => {
  let rest = number
  const upTo = (count: number) => {
    const digit = rest % count
    rest = Math.floor(rest / count)
    return digit
  }
  const oneOf = <A>(values: ReadonlyArray<A>) => values[upTo(values.length)] ?? assert.fail("an empty list")
  return {
    dice: upTo(100),
    key: oneOf(anyKey),
    asks: oneOf(anyAsks),
    which: upTo(6),
    end: oneOf(anyEnd),
    millis: oneOf(anyMillis),
    setup: upTo(3)
  }
}

/** Mostly calls and their ends: what starts everything anew has to be rare for the rest to be seen. */
const action = (dice: number) => {
  if (dice < 40) return "start"
  if (dice < 77) return "end"
  if (dice < 91) return "wait"
  if (dice < 94) return "check"
  if (dice < 95) return "hold"
  if (dice < 98) return "release"
  return dice < 99 ? "configure" : "reset"
}

const Commands = Schema.Array(upTo(2 ** 31 - 1)).check(Schema.isMinLength(40), Schema.isMaxLength(200))

const slowerThan = 500
const span = 8000
const minimumCalls = 3
const streak = 2

const rules = {
  consecutive: () => CircuitBreaker.consecutive(streak),
  rate: (size: number) => CircuitBreaker.rate({ size, minimumCalls, threshold: 0.5 }),
  rateOver: () => CircuitBreaker.rateOver({ window: span, minimumCalls, threshold: 0.5 }),
  slowRate: (size: number) => CircuitBreaker.slowRate({ slowerThan, size, minimumCalls, threshold: 0.5 })
}

const longest = 1600

const optionsOf = (setup: Means): CircuitBreaker.CircuitOptions => ({
  trip: rules[setup.rule](setup.size),
  openFor: setup.openFor,
  maxOpenFor: longest,
  probeTimeout: setup.probeTimeout,
  halfOpenPermits: setup.permits,
  successThreshold: setup.successes,
  successOutOf: setup.successes + setup.spare,
  metricsOnly: setup.metricsOnly
})

const serviceOptions = (setup: Setup): CircuitBreaker.Options => ({
  ...optionsOf(setup),
  keys: { named: { halfOpenPermits: 2, successThreshold: 1, successOutOf: 2 } }
})

const named: Partial<Means> = { permits: 2, successes: 1, spare: 1 }

/** What callers ask for: nothing, some things, or another rule. */
const asks: ReadonlyArray<{
  readonly options: CircuitBreaker.CircuitOptions | undefined
  readonly means: Partial<Means> | undefined
}> = [
  { options: undefined, means: undefined },
  { options: { openFor: 1200, halfOpenPermits: 2 }, means: { openFor: 1200, permits: 2 } },
  { options: { trip: rules.rate(4), metricsOnly: false }, means: { rule: "rate", size: 4, metricsOnly: false } }
]

interface Past {
  readonly failed: boolean
  readonly slow: boolean
  readonly at: number
}

interface Call {
  readonly startedAt: number
  readonly generation: number
  lostItsSlot: boolean
}

const half = (hits: ReadonlyArray<boolean>) => {
  const count = hits.filter(Boolean).length
  return hits.length >= minimumCalls && count > 0 && count / hits.length >= 0.5
}

/** What each rule says of the whole past of a closed circuit. */
const trips = ({ rule, size }: Means, past: ReadonlyArray<Past>, now: number): boolean => {
  switch (rule) {
    case "consecutive":
      return past.length >= streak && past.slice(-streak).every(({ failed }) => failed)
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

/** One circuit as one would tell it: generations counted, everything remembered, everything recomputed. */
class Model {
  readonly key: string
  base: Means
  /** What the first caller with options made of them. */
  asked: Partial<Means> | undefined
  exists = false
  changes: Array<string> = []
  state: "Closed" | "Open" | "HalfOpen" = "Closed"
  generation = 0
  past: Array<Past> = []
  calls = 0
  failures = 0
  successes = 0
  wouldOpen = false
  running: Array<Call> = []
  until = 0
  openings = 0
  openFor = 0
  closedAt = 0
  holds = 0
  constructor(key: string, base: Means) {
    this.key = key
    this.base = base
  }
  get settings(): Means {
    return { ...this.base, ...(this.key === "named" ? named : this.asked) }
  }
  get tag() {
    if (this.holds > 0) return "Isolated"
    return this.state === "Closed" && this.settings.metricsOnly ? "MetricsOnly" : this.state
  }
  change(step: () => void) {
    const from = this.tag
    step()
    if (this.exists && from !== this.tag) this.changes.push(`${from} -> ${this.tag}`)
  }
  enter(state: "Closed" | "Open" | "HalfOpen", now: number) {
    this.change(() => {
      this.state = state
      this.generation++
      this.past = []
      this.calls = this.failures = this.successes = 0
      this.wouldOpen = false
      if (state === "Closed") this.closedAt = now
    })
  }
  configure(base: Means, asked: Partial<Means> | undefined, now: number) {
    this.change(() => {
      const before = this.settings
      this.base = base
      this.asked = asked
      const after = this.settings
      if (this.state !== "Closed" && after.metricsOnly) {
        const { exists } = this
        this.exists = false
        this.enter("Closed", now)
        this.exists = exists
      } else if (before.rule !== after.rule) {
        this.past = []
      } else if (after.rule === "rate" || after.rule === "slowRate") {
        this.past = this.past.slice(-before.size)
      }
    })
  }
  probing(now: number) {
    return this.running.filter(({ generation, lostItsSlot, startedAt }) =>
      generation === this.generation && !lostItsSlot && now - startedAt < this.settings.probeTimeout
    )
  }
  open(now: number, retryAfter: number) {
    if (this.state === "Closed" && now - this.closedAt >= this.openFor) this.openings = 0
    this.openings++
    this.openFor = Math.min(Math.max(this.settings.openFor, retryAfter), longest)
    this.enter("Open", now)
    this.until = now + this.openFor
  }
  refusal({ metricsOnly, permits, probeTimeout }: Means, now: number) {
    if (this.holds > 0) return { state: "Isolated", wait: undefined }
    if (metricsOnly || this.state === "Closed") return undefined
    if (this.state === "Open") return now < this.until ? { state: "Open", wait: this.until - now } : undefined
    const probes = this.running.filter(({ generation, lostItsSlot, startedAt }) =>
      generation === this.generation && !lostItsSlot && now - startedAt < probeTimeout
    )
    const blocking = probes.map(({ startedAt }) => startedAt).toSorted((a, b) => a - b).at(-permits)
    return blocking === undefined ? undefined : { state: "HalfOpen", wait: blocking + probeTimeout - now }
  }
  /** The call that was admitted, or why it was not. */
  start(caller: Partial<Means> | undefined, now: number) {
    if (this.asked === undefined && caller !== undefined) this.configure(this.base, caller, now)
    this.exists = true
    const refused = this.refusal(this.settings, now)
    if (refused !== undefined) return refused
    if (this.state === "Open") this.enter("HalfOpen", now)
    if (this.state === "HalfOpen") {
      const probing = new Set(this.probing(now))
      for (const call of this.running) if (!probing.has(call)) call.lostItsSlot = true
    }
    const call: Call = { startedAt: now, generation: this.generation, lostItsSlot: false }
    this.running.push(call)
    return call
  }
  end(call: Call, end: End, now: number) {
    const inTime = now - call.startedAt < this.settings.probeTimeout && !call.lostItsSlot
    this.running = this.running.filter((other) => other !== call)
    if (call.generation !== this.generation || end === "ignored" || end === "interrupted") return
    const failed = end !== "success"
    const slow = now - call.startedAt > slowerThan
    const retryAfter = end === "later" ? 1700 : 0
    const { metricsOnly, rule, spare, successes } = this.settings
    if (this.state === "Closed") {
      this.calls++
      if (failed) this.failures++
      this.past.push({ failed, slow, at: now })
      this.wouldOpen = trips(this.settings, this.past, now)
      if (this.wouldOpen && !metricsOnly) this.open(now, retryAfter)
    } else if (inTime) {
      const healthy = !failed && !(slow && rule === "slowRate")
      if (healthy) this.successes++
      else this.failures++
      const outOfReach = this.failures > spare
      if (this.successes >= successes && (healthy || !outOfReach)) this.enter("Closed", now)
      else if (outOfReach) this.open(now, retryAfter)
    }
  }
  hold(now: number) {
    this.exists = true
    this.change(() => {
      if (this.holds++ > 0) return
      if (this.state === "Open") return
      this.generation++
      if (this.state === "Closed") return
      this.state = "Open"
      this.until = now
    })
  }
  release() {
    this.change(() => {
      this.holds--
    })
  }
  reset(now: number) {
    if (!this.exists) return
    this.openings = 0
    this.enter("Closed", now)
  }
  view(now: number): CircuitBreaker.State {
    const { calls, failures, key, openings, successes, tag, wouldOpen } = this
    switch (tag) {
      case "Isolated":
        return { _tag: tag, key, holders: this.holds }
      case "Open":
        return { _tag: tag, key, retryAfter: Duration.millis(Math.max(0, this.until - now)), openings }
      case "HalfOpen":
        return { _tag: tag, key, probes: this.probing(now).length, successes, failures, openings }
      case "Closed":
        return { _tag: tag, key, calls, failures }
      case "MetricsOnly":
        return { _tag: tag, key, calls, failures, wouldOpen }
    }
  }
}

interface Running {
  readonly model: Model
  readonly call: Call
  readonly gate: Deferred.Deferred<Effect.Effect<void, Told>>
  readonly fiber: Fiber.Fiber<Exit.Exit<void, Told | CircuitBreaker.CircuitOpen>>
}

const told = ({ retryAfter, state }: CircuitBreaker.CircuitOpen) => ({
  state,
  wait: retryAfter === undefined ? undefined : Duration.toMillis(retryAfter)
})

it.effect.prop(
  "behaves like its model under random calls, outcomes, interruptions, holds, options, settings and clock moves",
  { setups: Schema.Tuple([Setup, Setup, Setup]), commands: Commands },
  ({ commands, setups }) =>
    Effect.gen(function*() {
      const [setup] = setups
      const changes = new Map(keys.map((key): [string, Array<string>] => [key, []]))
      const heard = (event: Telemetry.Event) => {
        if (event._tag === "CircuitChanged") changes.get(event.key)?.push(`${event.from} -> ${event.to}`)
      }
      const breaker = yield* CircuitBreaker.make(serviceOptions(setup))
      const models = new Map(keys.map((key) => [key, new Model(key, setup)]))
      let now = 0
      const calls: Array<Running> = []
      const holds: Array<{ readonly model: Model; readonly hold: CircuitBreaker.Hold }> = []

      /** Does what the command says, and gives the models it touched. */
      const step = Effect.fnUntraced(function*(command: ReturnType<typeof commandOf>) {
        const { key } = command
        const model = models.get(key) ?? assert.fail(`no model of ${key}`)
        const { means, options } = asks[command.asks] ?? assert.fail("no such options")
        switch (action(command.dice)) {
          case "start": {
            const gate = yield* Deferred.make<Effect.Effect<void, Told>>()
            const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
              breaker.protect(key, options),
              Effect.exit,
              Effect.forkChild({ startImmediately: true })
            )
            const call = model.start(means, now)
            if ("wait" in call) {
              const error = yield* Effect.flip(Effect.flatten(Fiber.join(fiber)))
              assert.instanceOf(error, CircuitBreaker.CircuitOpen)
              assert.deepStrictEqual(told(error), call)
            } else {
              assert.isUndefined(fiber.pollUnsafe())
              calls.push({ model, call, gate, fiber })
            }
            return [model]
          }
          case "end": {
            const [ended] = calls.splice(command.which % Math.max(1, calls.length), 1)
            if (ended === undefined) return []
            if (command.end === "interrupted") yield* Fiber.interrupt(ended.fiber)
            else yield* Deferred.succeed(ended.gate, ends[command.end])
            yield* Fiber.await(ended.fiber)
            ended.model.end(ended.call, command.end, now)
            return [ended.model]
          }
          case "wait": {
            yield* TestClock.adjust(command.millis)
            now += command.millis
            return [model]
          }
          case "check": {
            const refused = yield* breaker.check(key, options).pipe(Effect.flip, Effect.map(told), Effect.option)
            const isFirst = key !== "named" && model.asked === undefined && means !== undefined
            const settings = isFirst ? { ...model.base, ...means } : model.settings
            assert.deepStrictEqual(refused._tag === "Some" ? refused.value : undefined, model.refusal(settings, now))
            return [model]
          }
          case "hold": {
            holds.push({ model, hold: yield* breaker.isolate(key) })
            model.hold(now)
            return [model]
          }
          case "release": {
            const [released] = holds.splice(command.which % Math.max(1, holds.length), 1)
            if (released === undefined) return []
            yield* released.hold.release
            yield* released.hold.release
            released.model.release()
            return [released.model]
          }
          case "configure": {
            const next = setups[command.setup] ?? setup
            yield* breaker.configure(serviceOptions(next))
            for (const each of models.values()) each.configure(next, each.asked, now)
            return models.values()
          }
          case "reset": {
            yield* breaker.reset(key)
            model.reset(now)
            return [model]
          }
        }
      }, Effect.provideService(Telemetry.Listener, heard))

      const agree = Effect.fnUntraced(function*(model: Model, step: number) {
        assert.deepStrictEqual(yield* breaker.state(model.key), model.view(now), `after command ${step}`)
        assert.deepStrictEqual(changes.get(model.key), model.changes, `after command ${step}`)
      })

      for (const [index, number] of commands.entries()) {
        for (const model of yield* step(commandOf(number))) yield* agree(model, index)
      }
      for (const model of models.values()) yield* agree(model, commands.length)
      yield* Fiber.interruptAll(calls.map(({ fiber }) => fiber))
      yield* Effect.forEach(holds, ({ hold }) => hold.release)
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(yield* breaker.states, [], "something is still held by a call that has ended")
    }).pipe(Effect.scoped, Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(400, 20_000), size: 200, seed: runs(3, 0) || undefined }, timeout: runs(30_000, 1_800_000) }
)
