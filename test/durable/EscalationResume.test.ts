import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Metric, Option, Random, Schema } from "effect"
import { Checkpoint, CheckpointStore, EscalationQueue, Telemetry } from "effect-resilience"
import * as TestClock from "effect/testing/TestClock"
import { decidingAtPoints, pointOf } from "../support/decisionPoints.ts"

const world = Layer.mergeAll(EscalationQueue.layerMemory, CheckpointStore.layerMemory)

type World = EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore

const approval = (task = "send?") => EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task })

const asked = (runId: string) =>
  EscalationQueue.EscalationQueue.use((queue) => Effect.map(queue.list({ runId }), ([first]) => first?.id ?? ""))

/** Everybody does what there is to do now. */
const settled = Effect.repeat(Effect.yieldNow, { times: 500 })

/** Lets time go by, in steps in which everybody gets on. */
const pass = (seconds: number) =>
  Effect.repeat(Effect.andThen(settled, TestClock.adjust("5 seconds")), { times: Math.ceil(seconds / 5) }).pipe(
    Effect.andThen(settled)
  )

describe("EscalationQueue.resumeRuns", () => {
  for (const interruptions of [0, 6]) {
    it.effect(
      `loses no wake-up, at whatever point around the suspension the decision lands: 300 runs, ${
        interruptions === 0 ? "one worker" : "workers that are stopped and started again"
      }`,
      () =>
        Effect.gen(function*() {
          const { decided, held, queue, store, through } = yield* decidingAtPoints(() => ({ _tag: "Approve" }))

          const before = new Map<string, number>()
          const after = new Map<string, number>()
          const count = (of: Map<string, number>, id: string) =>
            Effect.sync(() => void of.set(id, (of.get(id) ?? 0) + 1))
          const program = (id: string) =>
            Effect.gen(function*() {
              yield* Checkpoint.step("before", {}, count(before, id))
              const answer = yield* EscalationQueue.ask({
                name: "approval",
                reason: "RequiresHuman",
                task: "send?",
                timeToLive: "10 minutes"
              }).pipe(
                Effect.map(({ _tag }) => _tag),
                Effect.catchIf(
                  (error) => error._tag === "EscalationError" && error.reason._tag === "Expired",
                  () => Effect.succeed("Expired")
                )
              )
              yield* Checkpoint.step("after", {}, count(after, `${id} ${answer}`))
            }).pipe(Checkpoint.run({ id }))

          const worker = EscalationQueue.resumeRuns({ resume: program, concurrency: 5, interval: "5 seconds" }).pipe(
            Effect.provideService(CheckpointStore.CheckpointStore, store),
            Effect.provideService(EscalationQueue.EscalationQueue, queue)
          )
          const ids = Array.from({ length: 300 }, (_, n) => `run ${n}`)
          let working = yield* Effect.forkChild(worker)
          const first = yield* Effect.forEach(
            ids,
            (id) => through(id, program(id)),
            { concurrency: 20 }
          ).pipe(
            Effect.provideService(CheckpointStore.CheckpointStore, store),
            Effect.provideService(EscalationQueue.EscalationQueue, queue),
            Effect.forkChild
          )
          for (let n = 0; n < interruptions; n++) {
            yield* Effect.yieldNow.pipe(Effect.repeat({ times: yield* Random.nextIntBetween(1, 200) }))
            yield* Fiber.interrupt(working)
            working = yield* Effect.forkChild(worker)
            yield* pass(1)
          }
          yield* Fiber.join(first)
          yield* pass(700)

          const left = (yield* Checkpoint.list({ limit: 1000 })).filter(({ status }) => status !== "completed")
          assert.deepStrictEqual(left.map(({ runId, status }) => `${runId} ${status} ${pointOf(runId)}`), [])
          assert.deepStrictEqual(ids.filter((id) => before.get(id) !== 1), [])
          const answers = ids.map((id) => `${id} ${pointOf(id)?.startsWith("never") === true ? "Expired" : "Approve"}`)
          assert.deepStrictEqual(new Set(after.keys()), new Set(answers))
          assert.deepStrictEqual(new Set(after.values()), new Set([1]))
          assert.strictEqual(decided.size, 270)
          assert.strictEqual((yield* held.changedSince(-1, { only: "undelivered", limit: 10 })).records.length, 0)
          yield* Fiber.interrupt(working)
        }).pipe(Effect.provide(CheckpointStore.layerMemory))
    )
  }

  it.effect("a run that waits for a person takes no fiber", () =>
    Effect.gen(function*() {
      const active = Effect.map(Metric.snapshot, (metrics) => metrics.find(({ id }) => id === "child_fibers_active"))
      const program = (id: string) => approval().pipe(Checkpoint.run({ id }))
      const before = yield* active
      const ends = yield* Effect.forEach(
        Array.from({ length: 1000 }, (_, n) => `run ${n}`),
        (id) => Effect.flatMap(Effect.forkChild(Effect.exit(program(id))), Fiber.join),
        { concurrency: 50 }
      )
      assert.isTrue(ends.every(Exit.isFailure))
      yield* Effect.yieldNow
      const after = yield* active
      assert.isDefined(after)
      assert.deepStrictEqual(after?.state, before?.state ?? after?.state)
      assert.strictEqual(after?.type === "Gauge" ? Number(after.state.value) : -1, 0)
    }).pipe(Effect.provide(world), Metric.enableRuntimeMetrics))

  it.effect("goes on where the worker was killed between the decision and its record", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const stuck = yield* Deferred.make<void>()
      let killed = false
      // The decision is confirmed, and its record never gets to the store: the process ends there.
      const dying = CheckpointStore.CheckpointStore.of({
        ...store,
        append: (lease, entries, status) =>
          killed || !entries.some(({ body }) => body.includes("Approve"))
            ? store.append(lease, entries, status)
            : Effect.andThen(Deferred.succeed(stuck, undefined), Effect.never)
      })
      const program = Effect.map(approval(), ({ _tag }) => _tag).pipe(Checkpoint.run({ id: "run" }))
      yield* Effect.flip(program)
      const first = yield* EscalationQueue.resumeRuns({ resume: () => program }).pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, dying),
        Effect.forkChild
      )
      const id = yield* asked("run")
      yield* EscalationQueue.decide(id, { _tag: "Approve" })
      yield* Deferred.await(stuck)
      const used = yield* EscalationQueue.EscalationQueue.use((queue) => queue.get(id))
      assert.strictEqual(used.resolution?.used, true)
      killed = true
      yield* Effect.forkChild(Fiber.interrupt(first))
      yield* pass(60)
      yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: () => program }))
      yield* pass(120)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("completed"))
    }).pipe(Effect.provide(world)))

  it.effect("comes back to a run that another process is working on", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const program = Effect.map(approval(), ({ _tag }) => _tag).pipe(Checkpoint.run({ id: "run" }))
      yield* Effect.flip(program)
      const lease = yield* store.acquire("run", Duration.minutes(10))
      yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: () => program }))
      yield* EscalationQueue.decide(yield* asked("run"), { _tag: "Approve" })
      yield* pass(540)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("escalated"))
      yield* store.release(lease)
      yield* pass(10)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("completed"))
    }).pipe(Effect.provide(world)))

  it.effect("delivers all that was decided while the run was at work", () =>
    Effect.gen(function*() {
      const program = Checkpoint.forEach(["a", "b", "c"], approval, { concurrency: 3 }).pipe(
        Effect.map((decisions) => decisions.map(({ _tag }) => _tag)),
        Checkpoint.run({ id: "run" })
      )
      yield* Effect.flip(program)
      let resumed = 0
      const resume = Effect.suspend(() => {
        resumed++
        return Effect.andThen(Effect.sleep("1 second"), program)
      })
      yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: () => resume }))
      const questions = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list({ runId: "run" }))
      for (const { id } of questions) yield* EscalationQueue.decide(id, { _tag: "Approve" })
      yield* pass(5)
      assert.deepStrictEqual(yield* program, ["Approve", "Approve", "Approve"])
      assert.isBelow(resumed, 4)
      const left = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list({ runId: "run" }))
      assert.deepStrictEqual(left.map(({ delivered }) => delivered), [true, true, true])
    }).pipe(Effect.provide(world)))

  it.effect("leaves alone what is over, of another program, or not there", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const resumed: Array<string> = []
      const program = (id: string) => approval().pipe(Checkpoint.run({ id }))
      for (const id of ["done", "theirs", "interrupts", "fails"]) yield* Effect.flip(program(id))
      const ids = yield* Effect.forEach(["done", "theirs", "interrupts", "fails"], asked)
      const ghost = yield* queue.submit({ reason: "RequiresHuman", task: "a", runId: "ghost" })
      for (const id of [...ids, ghost.id]) yield* EscalationQueue.decide(id, { _tag: "Approve" })
      yield* program("done")
      yield* Effect.forkChild(EscalationQueue.resumeRuns({
        only: ({ runId }) => runId !== "theirs",
        resume: (runId) =>
          Effect.suspend(() => {
            resumed.push(runId)
            return runId === "interrupts" ? Effect.interrupt : Effect.fail("no")
          })
      }))
      yield* pass(300)
      assert.deepStrictEqual(new Set(resumed), new Set(["fails", "interrupts"]))
      const delivered = yield* Effect.forEach(
        ids,
        (id) => Effect.map(queue.get(id), ({ delivered }) => delivered === true)
      )
      assert.deepStrictEqual(delivered, [true, false, false, false])
    }).pipe(Effect.provide(world)))

  const paused = (id: string, version = 1) =>
    approval().pipe(Effect.map(({ _tag }) => _tag), Checkpoint.run({ id, version }))
  const another = (id: string) =>
    Checkpoint.step("another", { success: Schema.String }, Effect.succeed("program")).pipe(Checkpoint.run({ id }))

  const unheard: ReadonlyArray<readonly [why: string, resume: (id: string) => Effect.Effect<unknown, unknown, World>]> =
    [
      ["another program than wrote the journal, which fails with CheckpointMismatch", another],
      ["another version of the program, which fails with RunConflict", (id) => paused(id, 2)],
      ["a program that fails before it comes to the run", () => Effect.fail("its database is down")],
      [
        "a program that fails in the run before the question",
        (id) => Effect.fail("its database is down").pipe(Checkpoint.run({ id }))
      ],
      ["a defect before it comes to the run", () => Effect.die("a bug")],
      ["a program that answers without the run", () => Effect.succeed("something else, for now")]
    ]

  for (const [why, resume] of unheard) {
    it.effect(`keeps a decision that the run has not heard of, and tries again: ${why}`, () =>
      Effect.gen(function*() {
        const queue = yield* EscalationQueue.EscalationQueue
        const events: Array<Telemetry.Event> = []
        yield* Effect.flip(paused("run"))
        const id = yield* asked("run")
        let resumed = 0
        const first = yield* EscalationQueue.resumeRuns({
          resume: (runId) => Effect.andThen(Effect.sync(() => resumed++), resume(runId))
        }).pipe(Telemetry.listen((event) => Effect.sync(() => events.push(event))), Effect.forkChild)
        yield* queue.decide(id, { _tag: "Approve" })
        yield* pass(600)
        const kept = yield* queue.get(id)
        assert.deepStrictEqual([kept.delivered, kept.resolution?.used], [undefined, undefined])
        // At a falling rate: 600 seconds are 60 intervals.
        assert.isAtLeast(resumed, 5)
        assert.isAtMost(resumed, 7)
        const told = events.flatMap((event) => event._tag === "EscalationUndelivered" ? [event] : [])
        assert.deepStrictEqual(told.map(({ attempts }) => attempts), told.map((_, n) => n + 1))
        assert.deepStrictEqual(told.map(({ retryInMillis }) => retryInMillis).slice(0, 3), [10_000, 20_000, 40_000])
        yield* Fiber.interrupt(first)

        // After a restart, with the program as it was.
        yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: (id) => paused(id) }))
        yield* pass(10)
        assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("completed"))
        assert.deepStrictEqual(yield* paused("run"), "Approve")
        const { delivered, resolution } = yield* queue.get(id)
        assert.deepStrictEqual([delivered, resolution?.used], [true, true])
      }).pipe(Effect.provide(world)))
  }

  it.effect("a decision for a run that is cleared or cancelled meanwhile is not kept", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      for (
        const [runId, end] of [
          ["cleared", (id: string) => Effect.asVoid(Checkpoint.clear(id))],
          ["cancelled", (id: string) => Effect.asVoid(Checkpoint.cancel(id))]
        ] as const
      ) {
        yield* Effect.flip(paused(runId))
        const id = yield* asked(runId)
        const worker = yield* Effect.forkChild(
          EscalationQueue.resumeRuns({ resume: (id) => Effect.andThen(Effect.ignore(end(id)), Effect.fail("no")) })
        )
        yield* queue.decide(id, { _tag: "Approve" })
        yield* pass(30)
        assert.strictEqual((yield* queue.get(id)).delivered, true)
        yield* Fiber.interrupt(worker)
      }
    }).pipe(Effect.provide(world)))

  it.effect("tells of an expiry until the run has heard of it", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const program = EscalationQueue.ask({
        name: "approval",
        reason: "RequiresHuman",
        task: "send?",
        timeToLive: "1 minute"
      }).pipe(Effect.map(({ _tag }) => _tag), Checkpoint.run({ id: "run" }))
      yield* Effect.flip(program)
      const id = yield* asked("run")
      let down = true
      yield* Effect.forkChild(
        EscalationQueue.resumeRuns({
          resume: () => Effect.andThen(Effect.suspend(() => down ? Effect.fail("no") : Effect.void), program)
        })
      )
      yield* pass(90)
      assert.deepStrictEqual((yield* queue.get(id)).delivered, undefined)
      down = false
      yield* pass(300)
      assert.deepStrictEqual((yield* queue.get(id)).delivered, true)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("failed"))
    }).pipe(Effect.provide(world)))

  it.effect("wakes a run whose decision was taken back and made anew", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const Even = Schema.Int.check(Schema.makeFilter((n: number) => n % 2 === 0 || "odd"))
      const program = EscalationQueue.ask({ name: "number", reason: "RequiresHuman", task: "?", accepts: Even }).pipe(
        Checkpoint.run({ id: "run" })
      )
      yield* Effect.flip(program)
      yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: () => program }))
      const id = yield* asked("run")
      yield* queue.decide(id, { _tag: "Supply", value: 3 })
      yield* pass(1)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("escalated"))
      yield* queue.decide(id, { _tag: "Supply", value: 4 })
      yield* pass(1)
      assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("completed"))
    }).pipe(Effect.provide(world)))

  it.effect("fails when the queue fails for good", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      const denied = new EscalationQueue.EscalationError({
        operation: "changes",
        reason: { _tag: "Rejected", cause: new Error("denied") }
      })
      const queue = yield* EscalationQueue.make({ store: { ...store, changedSince: () => Effect.fail(denied) } })
      const error = yield* Effect.flip(EscalationQueue.resumeRuns({ resume: () => Effect.void })).pipe(
        Effect.provideService(EscalationQueue.EscalationQueue, queue)
      )
      assert.deepStrictEqual(error, denied)
      for (const options of [{ concurrency: 0 }, { maxInterval: 0 }, { interval: 0 }]) {
        assert.throws(() => EscalationQueue.resumeRuns({ resume: () => Effect.void, ...options }), /resumeRuns/)
      }
      assert.throws(() => EscalationQueue.layerMetrics({ interval: 0 }), /layerMetrics/)
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("goes on when the queue is back", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      let down = true
      const away = new EscalationQueue.EscalationError({
        operation: "changes",
        reason: { _tag: "Unavailable", cause: new Error("away") }
      })
      const queue = yield* EscalationQueue.make({
        store: {
          ...store,
          changedSince: (since, options) => down ? Effect.fail(away) : store.changedSince(since, options)
        }
      })
      const program = Effect.map(approval(), ({ _tag }) => _tag).pipe(Checkpoint.run({ id: "run" }))
      yield* Effect.gen(function*() {
        yield* Effect.flip(program)
        yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: () => program }))
        yield* EscalationQueue.decide(yield* asked("run"), { _tag: "Approve" })
        yield* pass(60)
        assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("escalated"))
        down = false
        yield* pass(10)
        assert.deepStrictEqual(yield* Checkpoint.status("run"), Option.some("completed"))
      }).pipe(Effect.provideService(EscalationQueue.EscalationQueue, queue))
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))
})

describe("EscalationQueue.layerMetrics", () => {
  it.effect("keeps the gauges at what the queue says", () =>
    Effect.gen(function*() {
      const gauges = Effect.all([
        Metric.value(EscalationQueue.depthGauge),
        Metric.value(EscalationQueue.oldestAgeGauge)
      ]).pipe(Effect.map((states) => states.map(({ value }) => value)))
      const first = yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "a" })
      yield* TestClock.adjust("1 minute")
      yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "b" })
      yield* TestClock.adjust("15 seconds")
      assert.deepStrictEqual(yield* gauges, [2, 75])
      yield* EscalationQueue.decide(first.id, { _tag: "Approve" })
      yield* TestClock.adjust("15 seconds")
      assert.deepStrictEqual(yield* gauges, [1, 30])
    }).pipe(Effect.provide(Layer.provideMerge(EscalationQueue.layerMetrics(), EscalationQueue.layerMemory))))
})
