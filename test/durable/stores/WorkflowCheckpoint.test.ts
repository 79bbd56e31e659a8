import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Queue, Result, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { ClusterError } from "effect/cluster"
import { TestClock } from "effect/testing"
import { DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import { createHash } from "node:crypto"
import { suite } from "../contracts/CheckpointStoreContract.ts"

const memory = WorkflowEngine.layerMemory

suite("workflow engine in memory", WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(memory)))

const text = { success: Schema.String }

const makeLog = () => {
  const log: Array<string> = []
  return { log, did: (what: string) => Effect.sync(() => (log.push(what), what)) }
}

/** An engine that tells which activities were executed. */
const watched = (activities: Array<string>) =>
  Layer.effect(
    WorkflowEngine.WorkflowEngine,
    Effect.map(WorkflowEngine.WorkflowEngine, (engine) =>
      WorkflowEngine.WorkflowEngine.of({
        ...engine,
        activityExecute: (activity, attempt) =>
          Effect.suspend(() => {
            activities.push(activity.name)
            return engine.activityExecute(activity, attempt)
          })
      }))
  ).pipe(Layer.provide(memory))

/** A store of its own on an engine, as a process has it. */
const connect = (owner: string, engine: WorkflowEngine.WorkflowEngine["Service"]) =>
  Layer.build(
    Layer.fresh(WorkflowCheckpoint.layerWorkflowWith({
      owner: { id: owner, isGone: () => Effect.succeed(false) }
    })).pipe(Layer.provide(Layer.succeed(WorkflowEngine.WorkflowEngine, engine)))
  )

const inMemory = <A, E>(
  name: string,
  body: () => Effect.Effect<A, E, CheckpointStore.CheckpointStore | WorkflowEngine.WorkflowEngine>
) =>
  it.effect(name, () =>
    Effect.suspend(body).pipe(
      Effect.provide(WorkflowCheckpoint.layerWorkflow.pipe(Layer.provideMerge(memory)))
    ))

describe("layerWorkflow", () => {
  it.effect("keeps each record as the result of an activity that is named after its step", () =>
    Effect.gen(function*() {
      const activities: Array<string> = []
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("plan", {}, Effect.void)
        yield* Checkpoint.step("pay", { effects: "atMostOnce" }, Effect.void)
        yield* Checkpoint.forEach([1, 2], () => Checkpoint.step("write", {}, Effect.void), { name: "section" })
        yield* Checkpoint.step("plan", {}, Effect.void)
      }).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provide(WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(watched(activities))))
      )
      yield* program
      assert.deepStrictEqual(activities, [
        "~run",
        "plan",
        // What it intends to do, and that it did it.
        "pay",
        "pay~2",
        "section[0]/write",
        "section[1]/write",
        "plan#2",
        "~run~2"
      ])
    }))

  it.effect("does without an execution where another process gets it, and does the same", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const one = yield* connect("one", engine)
      // Executions now start where nobody waits for them.
      yield* connect("two", engine)
      const { did, log } = makeLog()
      const program = Checkpoint.step("a", text, did("a")).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideContext(one)
      )
      assert.strictEqual(yield* program, "a")
      assert.strictEqual(yield* program, "a")
      assert.deepStrictEqual(log, ["a"])
    }).pipe(Effect.provide(memory)))

  it.effect("lets a process take over what another one holds once its execution has ended, and fences it", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const { did, log } = makeLog()
      const reached = yield* Deferred.make<void>()
      const opened = yield* Deferred.make<void>()
      let gate = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened))
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", text, Effect.andThen(did("a"), Effect.suspend(() => Effect.as(gate, "a"))))
        yield* Checkpoint.step("b", { ...text, effects: "atMostOnce" }, did("b"))
      }).pipe(Checkpoint.run({ id: "r" }))
      const one = yield* connect("one", engine)
      const first = yield* program.pipe(Effect.provideContext(one), Effect.flip, Effect.forkChild)
      yield* Deferred.await(reached)
      gate = Effect.void

      const two = yield* connect("two", engine)
      const refused = yield* program.pipe(Effect.provideContext(two), Effect.flip, Effect.forkChild)
      // It waits a while whether the engine ends the execution of the other one.
      while (refused.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
      const leased = yield* Fiber.join(refused)
      assert.isTrue(leased._tag === "RunLeased" && leased.holder === "one")

      yield* CheckpointStore.CheckpointStore.use((store) =>
        Effect.flatMap(store.acquire("r", Duration.minutes(1), { takeOver: true }), store.release)
      ).pipe(Effect.provideContext(two))
      yield* program.pipe(Effect.provideContext(two))
      assert.deepStrictEqual(log, ["a", "a", "b"])
      yield* Deferred.succeed(opened, undefined)
      const error = yield* Fiber.join(first)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Fenced")
      assert.deepStrictEqual(log, ["a", "a", "b"])
    }).pipe(Effect.provide(memory)))

  it.effect("tells a holder that was followed at the next renewal, whatever it is doing", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const one = yield* connect("one", engine)
      const reached = yield* Deferred.make<void>()
      const stopped = yield* Deferred.make<void>()
      const hanging = Effect.andThen(Deferred.succeed(reached, undefined), Effect.never).pipe(
        Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
      )
      const first = yield* Checkpoint.step("a", {}, hanging).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideContext(one),
        Effect.exit,
        Effect.forkChild
      )
      yield* Deferred.await(reached)
      const two = yield* connect("two", engine)
      yield* CheckpointStore.CheckpointStore.use((store) => store.acquire("r", Duration.minutes(1), { takeOver: true }))
        .pipe(Effect.provideContext(two))
      while (first.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
      yield* Deferred.await(stopped)
      const exit = yield* Fiber.join(first)
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.isTrue(error instanceof CheckpointStore.CheckpointStoreError && error.reason._tag === "Fenced")
    }).pipe(Effect.provide(memory)))

  it.effect("lets a holder whose execution the engine took away go on, as long as nobody followed it", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const executions: Array<string> = []
      const activities: Array<string> = []
      const one = yield* connect("one", {
        ...engine,
        activityExecute: (activity, attempt) =>
          Effect.suspend(() => {
            activities.push(activity.name)
            return engine.activityExecute(activity, attempt)
          }),
        execute: (workflow, options) =>
          Effect.suspend(() => {
            executions.push(options.executionId)
            return engine.execute(workflow, options)
          })
      })
      const Own = Workflow.make("effect-resilience/Checkpoint", { payload: {}, idempotencyKey: () => "" })
      const interrupt = Effect.suspend(() => engine.interruptUnsafe(Own, executions[0] ?? ""))
      const { did, log } = makeLog()
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", text, did("a"))
        yield* interrupt
        yield* Checkpoint.step("b", text, did("b"))
      }).pipe(Checkpoint.run({ id: "r" }), Effect.provideContext(one))
      yield* program
      assert.strictEqual(executions.length, 1)
      // There is nothing that its activities could be executed in any more.
      assert.deepStrictEqual(activities, ["~run", "a"])
      assert.deepStrictEqual(log, ["a", "b"])
      yield* program
      assert.deepStrictEqual(log, ["a", "b"])
    }).pipe(Effect.provide(memory)))

  it.effect("holds a run without an execution for the time of its lease, which others can see", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const one = yield* connect("one", engine)
      const two = yield* connect("two", engine)
      const [holder, other] = [one, two].map((context) => Context.get(context, CheckpointStore.CheckpointStore))
      if (holder === undefined || other === undefined) return yield* Effect.die("two stores")
      const lease = yield* holder.acquire("r", Duration.minutes(1))
      yield* holder.append(lease, [{ position: 0, step: "", body: "{}" }])
      yield* TestClock.adjust("40 seconds")
      yield* holder.renew(lease, Duration.minutes(1))
      yield* TestClock.adjust("40 seconds")
      const { reason } = yield* Effect.flip(other.acquire("r", Duration.minutes(1)))
      assert.isTrue(
        reason._tag === "LeaseHeld" && reason.owner === "one" && Duration.toMillis(reason.remaining) === 20_000
      )
      assert.strictEqual(Option.getOrUndefined(yield* other.get("r"))?.lease?.expiresAt, 100_000)
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual((yield* other.acquire("r", Duration.minutes(1))).abandoned, 1)
      assert.strictEqual((yield* Effect.flip(holder.renew(lease, Duration.minutes(1)))).reason._tag, "Fenced")
    }).pipe(Effect.provide(memory)))

  it.effect("shows the engine nothing of its caller's context", () =>
    Effect.gen(function*() {
      class Secret extends Context.Service<Secret, string>()("test/Secret") {}
      const engine = yield* WorkflowEngine.WorkflowEngine
      let seen = 0
      const look = Effect.map(Effect.serviceOption(Secret), (secret) => {
        if (Option.isSome(secret)) seen++
      })
      const context = yield* connect("one", {
        ...engine,
        execute: (workflow, options) => Effect.andThen(look, engine.execute(workflow, options)),
        activityExecute: (activity, attempt) => Effect.andThen(look, engine.activityExecute(activity, attempt)),
        deferredResult: (deferred) => Effect.andThen(look, engine.deferredResult(deferred)),
        deferredDone: (deferred, options) => Effect.andThen(look, engine.deferredDone(deferred, options))
      })
      yield* Checkpoint.step("a", {}, Effect.void).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideContext(context),
        Effect.provideService(Secret, "in the caller's transaction")
      )
      assert.strictEqual(seen, 0)
    }).pipe(Effect.provide(memory)))

  it.effect("finds out what became of a record that the engine did not acknowledge", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      let lost: "activity" | "link" | undefined
      const away = Effect.die(new ClusterError.PersistenceError({ cause: "the answer is lost" }))
      const once = (what: "activity" | "link") => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        Effect.suspend(() => {
          if (lost !== what) return effect
          lost = undefined
          return Effect.andThen(effect, away)
        })
      const store = Context.get(
        yield* connect("one", {
          ...engine,
          activityExecute: (activity, attempt) => once("activity")(engine.activityExecute(activity, attempt)),
          deferredDone: (deferred, options) => once("link")(engine.deferredDone(deferred, options))
        }),
        CheckpointStore.CheckpointStore
      )
      const entry = (position: number, body = "{}"): [CheckpointStore.Entry] => [{ position, step: "a", body }]
      const reason = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
        Effect.map(Effect.flip(effect), (error) => error.reason._tag)
      const lease = yield* store.acquire("r", Duration.minutes(1))

      lost = "link"
      assert.strictEqual(yield* reason(store.append(lease, entry(0))), "Unavailable")
      // It was written: something else in its place is refused, and the same is there already.
      assert.strictEqual(yield* reason(store.append(lease, entry(0, "[]"))), "PositionTaken")
      yield* store.append(lease, entry(0))
      lost = "link"
      assert.strictEqual(yield* reason(store.append(lease, entry(1))), "Unavailable")
      yield* store.renew(lease, Duration.minutes(1))
      yield* store.append(lease, entry(1))

      lost = "activity"
      assert.strictEqual(yield* reason(store.append(lease, entry(2))), "Unavailable")
      // It was kept, but stands nowhere: something else may stand in its place.
      yield* store.append(lease, entry(2, "[]"))
      assert.deepStrictEqual(yield* store.read("r"), [...entry(0), ...entry(1), ...entry(2, "[]")])

      lost = "link"
      assert.strictEqual(yield* reason(store.release(lease)), "Unavailable")
      const next = yield* store.acquire("r", Duration.minutes(1))
      assert.strictEqual(next.abandoned, 0)
      yield* store.remove(next)
      assert.deepStrictEqual(yield* store.read("r"), [])
    }).pipe(Effect.provide(memory)))

  it.effect("asks again for an activity that the engine answers with a suspension, as a cluster may after a crash", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      let suspensions = 0
      const suspending = (times: number) =>
        connect("one", {
          ...engine,
          activityExecute: (activity, attempt) =>
            Effect.suspend(() =>
              suspensions++ < times
                ? Effect.succeed(new Workflow.Suspended({}))
                : engine.activityExecute(activity, attempt)
            )
        })
      const program = (id: string) => Checkpoint.step("a", text, Effect.succeed("a")).pipe(Checkpoint.run({ id }))
      assert.strictEqual(yield* program("once").pipe(Effect.provideContext(yield* suspending(1))), "a")

      suspensions = 0
      const error = yield* program("always").pipe(Effect.provideContext(yield* suspending(Infinity)), Effect.flip)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Unavailable")
    }).pipe(Effect.provide(memory)))

  inMemory("refuses to read what a newer release has written", () =>
    Effect.gen(function*() {
      const engine = yield* WorkflowEngine.WorkflowEngine
      yield* engine.deferredDone(DurableDeferred.make("0", { success: Schema.Json }), {
        workflowName: "effect-resilience/Checkpoint",
        executionId: `r-journal-${createHash("sha256").update("journal::r").digest("hex").slice(0, 32)}`,
        deferredName: "0",
        exit: Exit.succeed({ version: 2, anything: true })
      })
      const error = yield* Effect.flip(Checkpoint.run(Effect.void, { id: "r" }))
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "SchemaTooNew")
    }))

  inMemory("runs in a workflow of the user's own as anywhere else", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const Own = Workflow.make("Own", {
        payload: { id: Schema.String },
        success: Schema.String,
        idempotencyKey: ({ id }) => id
      })
      const store = yield* CheckpointStore.CheckpointStore
      const program = Checkpoint.step("a", text, did("a")).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideService(CheckpointStore.CheckpointStore, store),
        Effect.orDie
      )
      yield* Effect.gen(function*() {
        assert.strictEqual(yield* Own.execute({ id: "1" }), "a")
        assert.strictEqual(yield* Own.execute({ id: "2" }), "a")
      }).pipe(Effect.provide(Own.toLayer(() => program)))
      assert.deepStrictEqual(log, ["a"])
    }))
})

suite(
  "workflow engine whose executions start elsewhere",
  Layer.effectContext(Effect.gen(function*() {
    const engine = yield* WorkflowEngine.WorkflowEngine
    const context = yield* connect("one", engine)
    yield* connect("two", engine)
    return context
  })).pipe(Layer.provide(memory))
)

describe("WorkflowCheckpoint.program", () => {
  class SiteDown extends Schema.TaggedError<SiteDown>()("SiteDown", { site: Schema.String }) {}

  const report = WorkflowCheckpoint.program({
    name: "report",
    input: Schema.Struct({ topic: Schema.String, due: Schema.DateFromString }),
    success: Schema.Struct({ text: Schema.String, at: Schema.DateFromString }),
    error: SiteDown
  })

  const due = new Date(0)

  class World extends Context.Service<World, {
    readonly did: (what: string) => Effect.Effect<string>
    readonly isDown: () => boolean
  }>()("test/World") {}

  const write = WorkflowCheckpoint.implement(report, ({ due, topic }) =>
    Effect.gen(function*() {
      const { did, isDown } = yield* World
      const plan = yield* Checkpoint.step("plan", text, did(`plan ${topic}`))
      yield* Checkpoint.step(
        "publish",
        { effects: "atMostOnce" },
        Effect.suspend(() => isDown() ? new SiteDown({ site: "tides.example" }) : Effect.asVoid(did("publish")))
      )
      return { text: plan, at: due }
    }))

  const Approval = DurableDeferred.make("approval", { success: Schema.String })
  const orders = Effect.runSync(Queue.unbounded<string>())
  const tokens = Effect.runSync(Queue.unbounded<DurableDeferred.Token>())
  const release = WorkflowCheckpoint.program({ name: "release", input: Schema.String, success: Schema.String })

  const shipping = WorkflowCheckpoint.implement(release, (version) =>
    Effect.gen(function*() {
      const { did } = yield* World
      const built = yield* Checkpoint.step("build", text, did(`build ${version}`))
      yield* Queue.offer(tokens, yield* DurableDeferred.token(Approval))
      const answer = yield* DurableDeferred.await(Approval)
      yield* Checkpoint.step("ship", text, did("ship"))
      return `${built}, ${answer}`
    }))

  const test = (
    name: string,
    body: (
      world: { readonly log: Array<string>; readonly did: (what: string) => Effect.Effect<string>; down: boolean }
    ) => Effect.Effect<
      void,
      unknown,
      CheckpointStore.CheckpointStore | WorkflowCheckpoint.Programs | WorkflowEngine.WorkflowEngine
    >,
    programs: ReadonlyArray<WorkflowCheckpoint.Implementation<World>> = [write],
    engine: Layer.Layer<WorkflowEngine.WorkflowEngine> = memory
  ) =>
    it.effect(name, () => {
      const world = { ...makeLog(), down: false }
      return body(world).pipe(
        Effect.provide(
          WorkflowCheckpoint.layerWorkflowWith({ programs }).pipe(
            Layer.provide(Layer.succeed(World, { did: world.did, isDown: () => world.down })),
            Layer.provideMerge(engine)
          )
        )
      )
    })

  test("runs by its name, and gives what its schemas say", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      assert.deepStrictEqual(yield* run, { text: "plan tides", at: due })
      assert.deepStrictEqual(yield* run, { text: "plan tides", at: due })
      assert.deepStrictEqual(world.log, ["plan tides", "publish"])
      const { records, status } = yield* Checkpoint.inspect("r")
      assert.deepStrictEqual(
        [status, ...records.map(({ kind, step }) => `${kind} ${step}`.trim())],
        [
          "completed",
          "RunOpened",
          "StepSucceeded plan",
          "StepIntended publish",
          "StepSucceeded publish",
          "RunCompleted"
        ]
      )
    }))

  test("fails with its own error, and goes on where it failed when it is run again", (world) =>
    Effect.gen(function*() {
      world.down = true
      const run = WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      const error = yield* Effect.flip(run)
      assert.isTrue(error instanceof SiteDown && error.site === "tides.example")
      assert.deepStrictEqual(yield* Checkpoint.status("r"), Option.some("failed"))
      world.down = false
      yield* run
      assert.deepStrictEqual(world.log, ["plan tides", "publish"])
      assert.deepStrictEqual(yield* Checkpoint.status("r"), Option.some("completed"))
    }))

  test("is run once for all who ask for it at the same time", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      const results = yield* Effect.all([run, run, run], { concurrency: "unbounded" })
      assert.strictEqual(results.length, 3)
      assert.deepStrictEqual(world.log, ["plan tides", "publish"])
    }))

  /** Takes its time to write, so that two who look at the same time see the same. */
  const slow = Layer.effect(
    WorkflowEngine.WorkflowEngine,
    Effect.map(WorkflowEngine.WorkflowEngine, (engine) =>
      WorkflowEngine.WorkflowEngine.of({
        ...engine,
        deferredDone: (deferred, options) =>
          Effect.andThen(Effect.repeat(Effect.yieldNow, { times: 100 }), engine.deferredDone(deferred, options))
      }))
  ).pipe(Layer.provide(memory))

  test(
    "is run for one of two who start it with different inputs at the same time",
    (world) =>
      Effect.gen(function*() {
        const run = (topic: string) => Effect.result(WorkflowCheckpoint.run(report, { id: "r", input: { topic, due } }))
        const results = yield* Effect.all([run("tides"), run("moons")], { concurrency: "unbounded" })
        const won = results.flatMap((result) => Result.isSuccess(result) ? [result.success.text] : [])
        const lost = results.flatMap((result) => Result.isFailure(result) ? [result.failure] : [])
        assert.strictEqual(won.length, 1)
        assert.isTrue(lost[0]?._tag === "RunConflict" && lost[0].reason === "Input")
        assert.deepStrictEqual(world.log, [won[0], "publish"])
      }),
    [write],
    slow
  )

  test("stays at work when who waits for it is interrupted", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(release, { id: "r", input: "1.0" })
      const waiting = yield* Effect.forkChild(run)
      const token = yield* Queue.take(tokens)
      yield* Fiber.interrupt(waiting)
      yield* DurableDeferred.succeed(Approval, { token, value: "approved" })
      const again = yield* Effect.forkChild(run)
      while (again.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(again), "build 1.0, approved")
      assert.deepStrictEqual(world.log, ["build 1.0", "ship"])
    }), [shipping])

  test("is started without being waited for", (world) =>
    Effect.gen(function*() {
      const options = { id: "r", input: { topic: "tides", due } }
      yield* WorkflowCheckpoint.start(report, options)
      yield* WorkflowCheckpoint.start(report, options)
      yield* WorkflowCheckpoint.run(report, options)
      assert.deepStrictEqual(world.log, ["plan tides", "publish"])
    }))

  test("is refused under the id of a run with another input or program", (world) =>
    Effect.gen(function*() {
      const reason = <A, R>(effect: Effect.Effect<A, WorkflowCheckpoint.Failure | SiteDown | { _tag: string }, R>) =>
        Effect.map(Effect.flip(effect), (error) => error instanceof Checkpoint.RunConflict ? error.reason : error._tag)
      yield* WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      const other = { id: "r", input: { topic: "moons", due } }
      assert.strictEqual(yield* reason(WorkflowCheckpoint.run(report, other)), "Input")
      assert.strictEqual(yield* reason(WorkflowCheckpoint.start(report, other)), "Input")
      assert.strictEqual(
        yield* reason(
          WorkflowCheckpoint.run({ ...report, name: "other" }, { id: "r", input: { topic: "tides", due } })
        ),
        "Program"
      )
      assert.deepStrictEqual(world.log, ["plan tides", "publish"])
    }))

  test("is missing on a runner that was not given it, and says so", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } }))
      assert.isTrue(error._tag === "ProgramMissing" && error.program === "report")
    }), [])

  test("is refused by a runner that has another version of it than the run was started with", (world) =>
    Effect.gen(function*() {
      yield* Checkpoint.run(Effect.void, { id: "r", input: { topic: "tides", due: due.toISOString() }, version: 2 })
      const error = yield* Effect.flip(
        WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      )
      assert.isTrue(error._tag === "RunConflict" && error.reason === "Version")
      assert.deepStrictEqual(world.log, [])
    }))

  test("goes on with what was begun by hand, and with no other input", (world) =>
    Effect.gen(function*() {
      const byHand = Effect.gen(function*() {
        yield* Checkpoint.step("plan", text, Effect.succeed("planned by hand"))
        return yield* Checkpoint.suspend("publish", "the cluster is to do the rest")
      }).pipe(Checkpoint.run({ id: "r", input: { topic: "tides", due: due.toISOString() } }))
      yield* Effect.flip(byHand)
      const other = yield* Effect.flip(WorkflowCheckpoint.run(report, { id: "r", input: { topic: "moons", due } }))
      assert.isTrue(other._tag === "RunConflict" && other.reason === "Input")
      const { text: plan } = yield* WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } })
      assert.strictEqual(plan, "planned by hand")
      assert.deepStrictEqual(world.log, ["publish"])
    }))

  test("may be gone on with by hand once its execution has ended, and not before", (world) =>
    Effect.gen(function*() {
      const input = { topic: "tides", due: due.toISOString() }
      const byHand = Effect.gen(function*() {
        yield* Checkpoint.step("plan", text, world.did("plan by hand"))
        yield* Checkpoint.step("publish", { effects: "atMostOnce" }, Effect.asVoid(world.did("publish by hand")))
      }).pipe(Checkpoint.run({ id: "r", input }))
      world.down = true
      yield* Effect.flip(WorkflowCheckpoint.run(report, { id: "r", input: { topic: "tides", due } }))
      yield* byHand
      assert.deepStrictEqual(world.log, ["plan tides", "publish by hand"])
    }))

  test(
    "waits for the engine's own deferreds between its steps, and is woken by them",
    (world) =>
      Effect.gen(function*() {
        const run = WorkflowCheckpoint.run(release, { id: "r", input: "1.0" })
        const waiting = yield* Effect.forkChild(run)
        const token = yield* Queue.take(tokens)
        const leased = yield* Effect.flip(Checkpoint.run(Effect.void, { id: "r", input: "1.0" }))
        assert.isTrue(leased._tag === "RunLeased" && leased.holder === "program \"release\"")
        yield* DurableDeferred.succeed(Approval, { token, value: "approved" })
        while (waiting.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(waiting), "build 1.0, approved")
        assert.deepStrictEqual(world.log, ["build 1.0", "ship"])
      }),
    [shipping]
  )

  test("suspends with a typed error, and resumes when it is run again", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(release, { id: "r", input: "1.0" })
      world.down = true
      const error = yield* Effect.flip(run)
      assert.isTrue(error._tag === "RunSuspended" && error.reason === "the shop is closed")
      assert.deepStrictEqual(yield* Checkpoint.status("r"), Option.some("suspended"))
      world.down = false
      assert.strictEqual(yield* run, "order 1.0")
      assert.deepStrictEqual(world.log, ["order 1.0"])
    }), [
    WorkflowCheckpoint.implement(release, (version) =>
      Effect.gen(function*() {
        const { did, isDown } = yield* World
        const ordered = yield* Checkpoint.step("order", text, did(`order ${version}`))
        const { runId } = yield* Checkpoint.current
        if (isDown()) {
          return yield* new Checkpoint.RunSuspended({ runId, step: "order", reason: "the shop is closed" })
        }
        return ordered
      }))
  ])

  test("is cancelled and revived from outside", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(release, { id: "r", input: "1.0" })
      const running = yield* Effect.forkChild(Effect.flip(run))
      yield* Queue.take(orders)
      assert.strictEqual(yield* Checkpoint.cancel("r"), "cancelled")
      assert.strictEqual((yield* Fiber.join(running))._tag, "RunCancelled")
      assert.strictEqual((yield* Effect.flip(run))._tag, "RunCancelled")
      yield* Checkpoint.revive("r")
      world.down = true
      assert.strictEqual(yield* run, "order 1.0")
      assert.deepStrictEqual(world.log, ["order 1.0"])
    }), [
    WorkflowCheckpoint.implement(release, (version) =>
      Effect.gen(function*() {
        const { did, isDown } = yield* World
        const ordered = yield* Checkpoint.step("order", text, did(`order ${version}`))
        yield* Queue.offer(orders, ordered)
        return isDown() ? ordered : yield* Effect.never
      }))
  ])

  test("gives the defect of its program to who runs it, and goes on after it", (world) =>
    Effect.gen(function*() {
      const run = WorkflowCheckpoint.run(release, { id: "r", input: "1.0" })
      world.down = true
      const exit = yield* Effect.exit(run)
      assert.isTrue(Exit.hasDies(exit))
      assert.deepStrictEqual(yield* Checkpoint.status("r"), Option.some("failed"))
      world.down = false
      assert.strictEqual(yield* run, "order 1.0")
      assert.deepStrictEqual(world.log, ["order 1.0"])
    }), [
    WorkflowCheckpoint.implement(release, (version) =>
      Effect.gen(function*() {
        const { did, isDown } = yield* World
        const ordered = yield* Checkpoint.step("order", text, did(`order ${version}`))
        return isDown() ? yield* Effect.die(new Error("a bug")) : ordered
      }))
  ])

  it("refuses a schema that would store a secret, and a name that is none", () => {
    const secret = Schema.RedactedFromValue(Schema.String)
    assert.throws(() => WorkflowCheckpoint.program({ name: "a", input: secret }), /input/)
    assert.throws(() => WorkflowCheckpoint.program({ name: "a", input: Schema.Null, success: secret }), /success/)
    assert.throws(() => WorkflowCheckpoint.program({ name: "", input: Schema.Null }), /name/)
    assert.throws(() => WorkflowCheckpoint.layerWorkflowWith({ programs: [write, write] }), /report/)
    assert.throws(() => WorkflowCheckpoint.run(release, { id: "", input: "" }), /id/)
  })
})
