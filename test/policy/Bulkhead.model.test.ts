import { assert, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import { Bulkhead } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Current as DeadlineCurrent } from "../../src/policy/internal/deadline.ts"
import { runs } from "../support/runs.ts"

const keys = ["a", "b", "named"] as const
type Key = (typeof keys)[number]

const ends = {
  success: Effect.void,
  failure: Effect.fail("no"),
  defect: Effect.die("bug"),
  interrupted: Effect.interrupt
} satisfies Record<string, Effect.Effect<void, string>>

/** What callers bring; the same object again is the same options. */
const brought = [undefined, undefined, { maxConcurrent: 1, maxQueue: 2, maxWait: 500 }, { maxConcurrent: 3 }]

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Command = Schema.Struct({
  dice: upTo(99),
  key: Schema.Literals(keys),
  which: upTo(11),
  options: upTo(brought.length - 1),
  end: Schema.Literals(["success", "failure", "defect", "interrupted"]),
  millis: Schema.Literals([1, 100, 400, 500, 999, 1000, 2000]),
  /** 0 for none of its own. */
  limit: Schema.Literals([0, 1, 2, 3, 5])
})

/** Mostly calls and their ends: what refuses everything has to be rare for the rest to be seen. */
const action = (dice: number) => {
  if (dice < 42) return "start"
  if (dice < 45) return "start without time"
  if (dice < 62) return "end"
  if (dice < 70) return "end and interrupt the next"
  if (dice < 80) return "interrupt"
  if (dice < 90) return "wait"
  if (dice < 94) return "resize"
  if (dice < 96) return "close"
  if (dice < 98) return "open"
  return dice < 99 ? "close all" : "open all"
}

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(200))

const Setup = Schema.Struct({
  maxConcurrent: Schema.Literals([1, 2]),
  maxQueue: Schema.Literals([0, 2, 5]),
  total: Schema.Literals([0, 1, 3])
})

const maxWait = 1000
const named = { maxConcurrent: 2, maxQueue: 3 }

const options = ({ maxConcurrent, maxQueue, total }: typeof Setup.Type): Bulkhead.Options => ({
  maxConcurrent,
  maxQueue,
  maxWait,
  total: total === 0 ? undefined : total,
  keys: { named }
})

interface Modelled {
  readonly id: number
  readonly key: Key
  readonly until: number
}

interface Refused {
  readonly reason: "QueueFull" | "WaitTooLong" | "Closed"
  readonly running: number
  readonly waiting: number
  readonly limit: number
  readonly total: number | undefined
}

class Share {
  running: Array<Modelled> = []
  queue: Array<Modelled> = []
  closed = false
  resized: number | undefined
  /** Whether a caller has brought options: those of the first one hold. */
  isAsked = false
  /** When it last became its turn to wait for: the lowest is served first. */
  ticket: number | undefined
  settings: { readonly maxConcurrent: number; readonly maxQueue: number; readonly maxWait: number }
  constructor(settings: Share["settings"]) {
    this.settings = settings
  }
  get limit() {
    return this.resized ?? this.settings.maxConcurrent
  }
}

/** The bulkhead as one would tell it: lists of calls, tickets for the turns, everything looked through at every step. */
class Model {
  readonly shares: Record<Key, Share>
  readonly refused = new Map<number, Refused>()
  readonly granted: Array<number> = []
  /** Who closes, and the keys that they still wait for. */
  closing: Array<{ readonly id: number; readonly keys: Set<Key> }> = []
  private readonly base: Share["settings"]
  private readonly total: number
  private tickets = 0

  constructor({ maxConcurrent, maxQueue, total }: typeof Setup.Type) {
    this.base = { maxConcurrent, maxQueue, maxWait }
    this.total = total === 0 ? Infinity : total
    this.shares = {
      a: new Share(this.base),
      b: new Share(this.base),
      named: new Share({ ...this.base, ...named })
    }
  }
  get all() {
    return keys.map((key) => this.shares[key])
  }
  get running() {
    return this.all.flatMap(({ running }) => running)
  }
  get waiting() {
    return this.all.flatMap(({ queue }) => queue)
  }
  private ticketing() {
    for (const share of this.all) {
      const canBeServed = share.queue.length > 0 && share.running.length < share.limit
      share.ticket = canBeServed ? share.ticket ?? ++this.tickets : undefined
    }
  }
  /** Gives away what is free. */
  settle() {
    this.ticketing()
    while (this.running.length < this.total) {
      const [next] = this.all.filter(({ ticket }) => ticket !== undefined).toSorted((x, y) =>
        (x.ticket ?? 0) - (y.ticket ?? 0)
      )
      const call = next?.queue.shift()
      if (next === undefined || call === undefined) break
      next.running.push(call)
      this.granted.push(call.id)
      next.ticket = undefined
      this.ticketing()
    }
    for (const key of keys) if (this.shares[key].running.length === 0) this.stopWaitingFor(key)
    this.closing = this.closing.filter((closing) => closing.keys.size > 0)
  }
  private stopWaitingFor(key: Key) {
    for (const closing of this.closing) closing.keys.delete(key)
  }
  private refuse(id: number, share: Share, reason: Refused["reason"]) {
    const full = share.running.length < share.limit && this.running.length >= this.total
    this.refused.set(id, {
      reason,
      running: share.running.length,
      waiting: share.queue.length,
      limit: share.limit,
      total: full ? this.total : undefined
    })
  }
  start(id: number, key: Key, own: (typeof brought)[number], now: number, noTime: boolean) {
    const share = this.shares[key]
    if (own !== undefined && key !== "named" && !share.isAsked) {
      share.isAsked = true
      share.settings = { ...this.base, ...own }
    }
    this.settle()
    const call = { id, key, until: now + share.settings.maxWait }
    if (share.closed) return this.refuse(id, share, "Closed")
    if (share.running.length < share.limit && this.running.length < this.total) {
      share.running.push(call)
      this.granted.push(id)
      return
    }
    if (share.queue.length >= share.settings.maxQueue) return this.refuse(id, share, "QueueFull")
    if (noTime) return this.refuse(id, share, "WaitTooLong")
    share.queue.push(call)
    this.settle()
  }
  leave(id: number) {
    for (const share of this.all) {
      share.running = share.running.filter((call) => call.id !== id)
      share.queue = share.queue.filter((call) => call.id !== id)
    }
    this.settle()
  }
  passTo(now: number) {
    for (const call of this.waiting.filter(({ until }) => until <= now).toSorted((x, y) => x.until - y.until)) {
      const share = this.shares[call.key]
      share.queue = share.queue.filter(({ id }) => id !== call.id)
      this.refuse(call.id, share, "WaitTooLong")
    }
    this.settle()
  }
  resize(key: Key, limit: number) {
    const share = this.shares[key]
    share.resized = limit === 0 ? undefined : limit
    this.settle()
  }
  close(id: number, key: Key | undefined) {
    for (const share of key === undefined ? this.all : [this.shares[key]]) {
      const { queue } = share
      share.closed = true
      share.queue = []
      for (const call of queue) this.refuse(call.id, share, "Closed")
    }
    this.closing.push({ id, keys: new Set(key === undefined ? keys : [key]) })
    this.settle()
  }
  open(key: Key | undefined) {
    for (const opened of key === undefined ? keys : [key]) {
      this.shares[opened].closed = false
      this.stopWaitingFor(opened)
    }
    this.settle()
  }
}

const refusedOf = (exit: Exit.Exit<unknown, unknown>): Refused => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.instanceOf(error, Bulkhead.BulkheadFull)
  return {
    reason: error.reason,
    running: error.running,
    waiting: error.waiting,
    limit: error.limit,
    total: error.total
  }
}

const pick = <A>(items: ReadonlyArray<A>, which: number): A | undefined => items[which % Math.max(1, items.length)]

it.effect.prop(
  "behaves like its model under random calls, ends, interruptions, sizes, closings and clock moves",
  { setup: Setup, commands: Commands },
  ({ commands, setup }) =>
    Effect.scoped(Effect.gen(function*() {
      const service = yield* Bulkhead.make(options(setup))
      const model = new Model(setup)
      let now = 0
      let ids = 0
      const started: Array<number> = []
      const running = new Set<number>()
      const calls = new Map<number, {
        readonly gate: Deferred.Deferred<Effect.Effect<void, string>>
        readonly fiber: Fiber.Fiber<void, string | Bulkhead.BulkheadFull>
      }>()
      const closing = new Map<number, Fiber.Fiber<void>>()
      // Granted and interrupted before they could run.
      const never = new Set<number>()

      const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 3 }))

      const close = (key: Key | undefined) =>
        Effect.gen(function*() {
          const id = ++ids
          const closed = key === undefined ? service.closeAll : service.close(key)
          closing.set(id, yield* Effect.forkChild(closed, { startImmediately: true }))
          model.close(id, key)
        })

      for (const command of commands) {
        const { key } = command
        const doing = action(command.dice)
        switch (doing) {
          case "start":
          case "start without time": {
            const noTime = doing === "start without time"
            const id = ++ids
            const gate = yield* Deferred.make<Effect.Effect<void, string>>()
            const work = Effect.acquireUseRelease(
              Effect.sync(() => {
                started.push(id)
                running.add(id)
                assert.isAtMost(running.size, setup.total === 0 ? Infinity : setup.total)
              }),
              () => Effect.flatten(Deferred.await(gate)),
              () => Effect.sync(() => running.delete(id))
            )
            const fiber = yield* work.pipe(
              service.limit(key, brought[command.options]),
              Effect.provideService(DeadlineCurrent, noTime ? now : undefined),
              Effect.forkChild({ startImmediately: true })
            )
            calls.set(id, { gate, fiber })
            model.start(id, key, brought[command.options], now, noTime)
            // who may not wait is told at once
            if (model.refused.has(id)) assert.isDefined(fiber.pollUnsafe())
            break
          }
          case "end": {
            const ended = pick(model.running, command.which)
            const call = ended === undefined ? undefined : calls.get(ended.id)
            if (ended === undefined || call === undefined) break
            yield* Deferred.succeed(call.gate, ends[command.end])
            yield* Fiber.await(call.fiber)
            model.leave(ended.id)
            break
          }
          case "end and interrupt the next": {
            const ended = pick(model.running, command.which)
            const call = ended === undefined ? undefined : calls.get(ended.id)
            if (ended === undefined || call === undefined) break
            const before = model.granted.length
            model.leave(ended.id)
            const next = model.granted[before]
            yield* Effect.withFiber(() => {
              Deferred.doneUnsafe(call.gate, Exit.succeed(ends[command.end]))
              if (next !== undefined) calls.get(next)?.fiber.interruptUnsafe()
              return Effect.void
            })
            if (next !== undefined) {
              never.add(next)
              model.leave(next)
            }
            break
          }
          case "interrupt": {
            const interrupted = pick([...model.running, ...model.waiting], command.which)
            const call = interrupted === undefined ? undefined : calls.get(interrupted.id)
            if (interrupted === undefined || call === undefined) break
            yield* Fiber.interrupt(call.fiber)
            model.leave(interrupted.id)
            break
          }
          case "wait": {
            yield* TestClock.adjust(command.millis)
            now += command.millis
            model.passTo(now)
            break
          }
          case "resize": {
            yield* service.resize(key, command.limit === 0 ? undefined : command.limit)
            model.resize(key, command.limit)
            break
          }
          case "close": {
            yield* close(key)
            break
          }
          case "close all": {
            yield* close(undefined)
            break
          }
          case "open": {
            yield* service.open(key)
            model.open(key)
            break
          }
          case "open all": {
            yield* service.openAll
            model.open(undefined)
            break
          }
        }
        yield* settle
        const at = `after ${JSON.stringify(command)}`
        for (const key of keys) {
          const { closed, limit, queue, running, settings } = model.shares[key]
          assert.deepStrictEqual(yield* service.state(key), {
            key,
            running: running.length,
            waiting: queue.length,
            limit,
            maxQueue: settings.maxQueue,
            closed
          }, at)
        }
        assert.deepStrictEqual(started, model.granted.filter((id) => !never.has(id)), at)
        assert.sameMembers([...running], model.running.map(({ id }) => id), at)
        for (const [id, { fiber }] of calls) {
          const refused = model.refused.get(id)
          const exit = fiber.pollUnsafe()
          if (refused !== undefined && exit !== undefined) assert.deepStrictEqual(refusedOf(exit), refused, at)
          else assert.isUndefined(refused, at)
          if (exit !== undefined) calls.delete(id)
        }
        const stillClosing = model.closing.map(({ id }) => id)
        assert.deepStrictEqual(
          [...closing].flatMap(([id, fiber]) => fiber.pollUnsafe() === undefined ? [id] : []),
          stillClosing,
          at
        )
      }

      yield* Effect.forEach(calls.values(), ({ fiber }) => Fiber.interrupt(fiber))
      for (const key of keys) assert.deepInclude(yield* service.state(key), { running: 0, waiting: 0 })
    })).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(400, 20_000) }, timeout: runs(30_000, 1_800_000) }
)
