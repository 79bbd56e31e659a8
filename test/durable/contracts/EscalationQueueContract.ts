import { assert, describe, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Layer, Option, Redacted, Result, Schema, Stream } from "effect"
import type { Scope } from "effect"
import { Checkpoint, type CheckpointStore, EscalationQueue, Telemetry } from "effect-resilience"
import * as TestClock from "effect/testing/TestClock"

type Process = Layer.Layer<EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore, unknown>

type Services = EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore | Scope.Scope

const queue = EscalationQueue.EscalationQueue

/** Time for whoever looks at intervals, and for what is really under way to a server. */
const aMoment = Effect.andThen(TestClock.adjust("1 second"), TestClock.withLive(Effect.sleep("2 millis")))

const until = (there: () => boolean) => Effect.repeat(aMoment, { until: there })

const tagOf = (error: EscalationQueue.EscalationError) => error.reason._tag

/**
 * What every `EscalationQueue` promises, over a store that `open` makes anew for each test. With `shared`, a second
 * provision of the layer is another process over the same store.
 */
export const escalationQueueContract = (
  name: string,
  open: Effect.Effect<Process, unknown, Scope.Scope>,
  { shared }: { readonly shared: boolean }
) => {
  const inProcess = <A, E, R>(process: Process, effect: Effect.Effect<A, E, R | Services>) =>
    Effect.provide(effect, Layer.fresh(process), { local: true })
  const test = <E>(
    body: (process: Process) => Effect.Effect<void, E, Services>
  ): Effect.Effect<void, unknown, Scope.Scope> => Effect.flatMap(open, (process) => inProcess(process, body(process)))
  /** Another process, or the same one where there can be no other. */
  const elsewhere = <A, E, R>(process: Process, effect: Effect.Effect<A, E, R | Services>) =>
    shared ? inProcess(process, effect) : effect

  describe(name, () => {
    it.effect("a submitted escalation is open, and is read as it was written", () =>
      test((process) =>
        Effect.gen(function*() {
          yield* TestClock.setTime(1000)
          const written = yield* EscalationQueue.submit({
            reason: "LowConfidence",
            task: "is this right?",
            runId: "run-1",
            step: "check",
            error: new TypeError("bad"),
            checkpoint: "run-1@7",
            state: { messages: ["hello"] },
            context: { amount: 7 },
            timeToLive: "1 hour",
            accepts: Schema.Int
          })
          const read = yield* elsewhere(process, queue.use((queue) => queue.get(written.id)))
          assert.deepStrictEqual(read, written)
          assert.strictEqual(read.status, "open")
          assert.deepStrictEqual(read.error, { tag: "TypeError", message: "bad" })
          assert.strictEqual(DateTime.toEpochMillis(read.submittedAt), 1000)
          assert.deepStrictEqual([read.state, read.context], [{ messages: ["hello"] }, { amount: 7 }])
        })
      ))

    it.effect("without a dedupe key every submission is one of its own, with an id of its own", () =>
      test(() =>
        Effect.gen(function*() {
          const one = yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "a" })
          const other = yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "a" })
          assert.notStrictEqual(one.id, other.id)
        })
      ))

    it.effect("with a dedupe key there is one escalation, however many submit it at once", () =>
      test((process) =>
        Effect.gen(function*() {
          const submission = { reason: "RequiresHuman", task: "a", dedupeKey: "run/step" } as const
          const events: Array<Telemetry.Event> = []
          const all = yield* Effect.forEach(
            [1, 2, 3, 4],
            (n) =>
              n % 2 === 0 ? EscalationQueue.submit(submission) : elsewhere(process, EscalationQueue.submit(submission)),
            { concurrency: "unbounded" }
          ).pipe(Effect.provideService(Telemetry.Listener, (event) => void events.push(event)))
          assert.strictEqual(new Set(all.map(({ id }) => id)).size, 1)
          assert.deepStrictEqual(events.map(({ _tag }) => _tag), ["EscalationOpened"])
          yield* EscalationQueue.decide(all[0]?.id ?? "", { _tag: "Approve" })
          assert.strictEqual((yield* EscalationQueue.submit(submission)).status, "resolved")
        })
      ))

    it.effect("deciding twice is AlreadyDecided, and changes nothing", () =>
      test((process) =>
        Effect.gen(function*() {
          const { id } = yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "a" })
          const events: Array<Telemetry.Event> = []
          const decided = yield* EscalationQueue.decide(id, { _tag: "Reject", reason: "no" }, { by: "ann" }).pipe(
            Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
          )
          assert.deepStrictEqual(events, [{ _tag: "EscalationDecided", id, decision: "Reject", waitedMillis: 0 }])
          assert.strictEqual(decided.status, "resolved")
          const error = yield* Effect.flip(
            elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve" }, { by: "bob" }))
          )
          assert.isTrue(error instanceof EscalationQueue.EscalationError)
          if (error instanceof EscalationQueue.EscalationError) {
            assert.deepStrictEqual(error.reason, { _tag: "AlreadyDecided", decision: "Reject", by: "ann" })
            assert.include(error.message, "by ann")
          }
          assert.deepStrictEqual(yield* queue.use((queue) => queue.get(id)), decided)
        })
      ))

    it.effect("of many deciders exactly one wins", () =>
      test((process) =>
        Effect.gen(function*() {
          const { id } = yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "a" })
          const results = yield* Effect.forEach(
            Array.from({ length: 12 }, (_, n) => n),
            (n) => {
              const decide = Effect.result(EscalationQueue.decide(id, { _tag: "Supply", value: n }))
              return n % 3 === 0 ? elsewhere(process, decide) : decide
            },
            { concurrency: "unbounded" }
          )
          const won = results.filter(Result.isSuccess)
          assert.strictEqual(won.length, 1)
          assert.isTrue(results.filter(Result.isFailure).every(({ failure }) => tagOf(failure) === "AlreadyDecided"))
          assert.deepStrictEqual(yield* queue.use((queue) => queue.get(id)), won[0]?.success)
        })
      ))

    it.effect("what is not there is NotFound", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const errors = yield* Effect.all([
            Effect.flip(service.get("x")),
            Effect.flip(service.decide("x", { _tag: "Retry" })),
            Effect.flip(service.claim("x", { by: "ann" })),
            Effect.flip(service.reopen("x"))
          ])
          assert.deepStrictEqual(errors.map(tagOf), ["NotFound", "NotFound", "NotFound", "NotFound"])
        })
      ))

    it.effect("after its time to live it is expired, and cannot be decided", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a", timeToLive: "1 hour" })
          yield* service.claim(id, { by: "ann", lease: "2 hours" })
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(tagOf(yield* Effect.flip(service.decide(id, { _tag: "Retry" }, { by: "ann" }))), "Expired")
          assert.strictEqual(tagOf(yield* Effect.flip(service.claim(id, { by: "ann" }))), "Expired")
          assert.strictEqual((yield* service.get(id)).status, "expired")
          assert.strictEqual(yield* service.depth, 0)
          assert.strictEqual((yield* service.list({ status: "expired" })).length, 1)
          assert.deepStrictEqual(yield* service.claimNext({ by: "ann" }), Option.none())
        })
      ))

    it.effect("a value that does not decode is InvalidDecision, and changes nothing", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const before = yield* service.submit({
            reason: "InvalidOutput",
            task: "a",
            accepts: Schema.Struct({ amount: Schema.Int.check(Schema.isGreaterThan(0)) })
          })
          for (const value of ["text", {}, { amount: -1 }]) {
            const error = yield* Effect.flip(
              elsewhere(process, EscalationQueue.decide(before.id, { _tag: "Supply", value }))
            )
            assert.isTrue(error instanceof EscalationQueue.EscalationError && tagOf(error) === "InvalidDecision")
          }
          assert.deepStrictEqual(yield* service.get(before.id), before)
          yield* service.decide(before.id, { _tag: "Supply", value: { amount: 3 } })
        })
      ))

    it.effect("a decision that it does not take is InvalidDecision, and changes nothing", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const before = yield* service.submit({ reason: "RequiresHuman", task: "a", decisions: ["Approve", "Reject"] })
          const error = yield* Effect.flip(service.decide(before.id, { _tag: "Retry" }))
          assert.deepStrictEqual(error.reason, {
            _tag: "InvalidDecision",
            decision: "Retry",
            issue: "it takes Approve, Reject"
          })
          assert.deepStrictEqual(yield* service.get(before.id), before)
        })
      ))

    it.effect("an expiry is recorded, and a clock that is late cannot decide after that", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a", timeToLive: "1 hour" })
          const other = yield* service.submit({ reason: "RequiresHuman", task: "b", timeToLive: "2 hours" })
          assert.strictEqual(yield* service.expire, 0)
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(yield* elsewhere(process, queue.use((queue) => queue.expire)), 1)
          assert.strictEqual(yield* service.expire, 0)
          yield* TestClock.setTime(1)
          const refusals = yield* Effect.forEach(
            [service.decide(id, { _tag: "Approve" }), service.claim(id, { by: "ann" }), service.reopen(id)],
            (refused) => Effect.map(Effect.flip(refused), tagOf)
          )
          assert.deepStrictEqual(refusals, ["Expired", "Expired", "Expired"])
          assert.deepStrictEqual((yield* service.list({ status: "expired" })).map(({ id }) => id), [id])
          assert.deepStrictEqual((yield* service.list({ status: "open" })).map(({ id }) => id), [other.id])
          assert.strictEqual(yield* service.depth, 1)
        })
      ))

    it.effect("a run that was told of an expiry is not approved by a clock that is late", () =>
      test((process) =>
        Effect.gen(function*() {
          const program = EscalationQueue.ask({
            name: "approval",
            reason: "RequiresHuman",
            task: "now?",
            timeToLive: "1 hour"
          }).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          const [asked] = yield* queue.use((queue) => queue.list())
          yield* TestClock.adjust("1 hour")
          yield* Effect.flip(program)
          yield* TestClock.setTime(1)
          const late = yield* Effect.flip(
            elsewhere(process, EscalationQueue.decide(asked?.id ?? "", { _tag: "Approve" }))
          )
          assert.isTrue(late instanceof EscalationQueue.EscalationError && tagOf(late) === "Expired")
        })
      ))

    it.effect("a question that was withdrawn cannot be decided, and waits no more", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a", runId: "run" })
          yield* service.claim(id, { by: "ann" })
          const withdrawn = yield* service.withdraw(id, { reason: "not needed" })
          assert.deepStrictEqual([withdrawn.status, withdrawn.claim], ["withdrawn", undefined])
          const error = yield* Effect.flip(
            elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve" }, { by: "ann" }))
          )
          assert.isTrue(error instanceof EscalationQueue.EscalationError && tagOf(error) === "Withdrawn")
          if (error instanceof EscalationQueue.EscalationError) assert.include(error.message, "not needed")
          assert.strictEqual(tagOf(yield* Effect.flip(service.reopen(id))), "Withdrawn")
          assert.deepStrictEqual(yield* service.withdraw(id), withdrawn)
          assert.deepStrictEqual(yield* service.get(id), withdrawn)
          assert.strictEqual(yield* service.depth, 0)
          assert.deepStrictEqual((yield* service.list({ status: "withdrawn" })).map(({ id }) => id), [id])
          const decided = yield* service.submit({ reason: "RequiresHuman", task: "b" })
          yield* service.decide(decided.id, { _tag: "Approve" })
          assert.strictEqual((yield* service.withdraw(decided.id)).status, "resolved")
        })
      ))

    it.effect("a decision for a run that was cancelled is refused, and changes nothing", () =>
      test((process) =>
        Effect.gen(function*() {
          const program = Effect.map(
            EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: "send?" }),
            ({ _tag }) => _tag
          ).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          const service = yield* queue
          const [asked] = yield* service.list()
          const id = asked?.id ?? ""
          yield* Checkpoint.cancel("run")
          const error = yield* Effect.flip(elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve" })))
          assert.deepStrictEqual(
            error instanceof EscalationQueue.EscalationError && error.reason,
            { _tag: "RunCancelled", runId: "run" }
          )
          assert.deepStrictEqual(yield* service.get(id), asked)
          // Revived, it can be decided after all.
          yield* Checkpoint.revive("run")
          yield* EscalationQueue.decide(id, { _tag: "Approve" })
          assert.strictEqual(yield* program, "Approve")
        })
      ))

    it.effect("cancel withdraws what the run has asked, and a revived run asks anew", () =>
      test((process) =>
        Effect.gen(function*() {
          const question = (name: string) =>
            EscalationQueue.ask({ name, reason: "RequiresHuman", task: name }).pipe(Effect.map(({ _tag }) => _tag))
          const program = Checkpoint.all([question("a"), question("b")]).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "of another one", runId: "other" })
          assert.strictEqual(
            yield* elsewhere(process, EscalationQueue.cancel("run", { reason: "enough" })),
            "cancelled"
          )
          const service = yield* queue
          assert.deepStrictEqual((yield* service.list({ status: "open" })).map(({ runId }) => runId), ["other"])
          assert.strictEqual((yield* service.list({ runId: "run", status: "withdrawn" })).length, 2)
          yield* Checkpoint.revive("run")
          yield* Effect.flip(program)
          const anew = yield* service.list({ runId: "run", status: "open" })
          assert.strictEqual(anew.length, 2)
          for (const { id } of anew) yield* EscalationQueue.decide(id, { _tag: "Approve" })
          assert.deepStrictEqual(yield* program, ["Approve", "Approve"])
        })
      ))

    it.effect("other arguments can be approved where that is asked for, and are checked when they are given", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const plain = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          const refused = yield* Effect.flip(service.decide(plain.id, { _tag: "Approve", arguments: {} }))
          assert.strictEqual(tagOf(refused), "InvalidDecision")
          const program = EscalationQueue.ask({
            name: "approval",
            reason: "RequiresHuman",
            task: "pay 900?",
            edits: Schema.Struct({ amount: Schema.Int })
          }).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          const [asked] = yield* service.list({ runId: "run" })
          const id = asked?.id ?? ""
          const wrong = yield* Effect.flip(
            elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve", arguments: { amount: "much" } }))
          )
          assert.isTrue(wrong instanceof EscalationQueue.EscalationError && tagOf(wrong) === "InvalidDecision")
          assert.deepStrictEqual(yield* service.get(id), asked)
          yield* elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve", arguments: { amount: 90 } }))
          assert.deepStrictEqual(yield* program, { _tag: "Approve", arguments: { amount: 90 } })
        })
      ))

    it.effect("an approval is for what was asked about: something else is asked anew", () =>
      test((process) =>
        Effect.gen(function*() {
          const done: Array<string> = []
          const pay = (cents: number) =>
            Effect.gen(function*() {
              const about = { tool: "pay", args: { cents, to: "ann" } }
              const { _tag } = yield* EscalationQueue.ask({
                name: "approval",
                reason: "IrreversibleAction",
                task: `pay ${cents}?`,
                about
              })
              yield* Checkpoint.step("pay", {}, Effect.sync(() => void done.push(`${cents} ${_tag}`)))
            }).pipe(Checkpoint.run({ id: "run" }))
          const service = yield* queue
          const open = Effect.map(service.list({ status: "open" }), (records) => records.map(({ task }) => task))
          const approve = Effect.gen(function*() {
            const [asked] = yield* service.list({ status: "open" })
            yield* elsewhere(process, EscalationQueue.decide(asked?.id ?? "", { _tag: "Approve" }))
          })
          yield* Effect.flip(pay(5))
          // The program was changed while somebody was thinking about it.
          assert.isTrue((yield* Effect.flip(pay(7))) instanceof Checkpoint.RunSuspended)
          assert.deepStrictEqual(yield* open, ["pay 7?"])
          yield* approve
          // And once more after the approval.
          assert.isTrue((yield* Effect.flip(pay(500))) instanceof Checkpoint.RunSuspended)
          assert.deepStrictEqual([yield* open, done], [["pay 500?"], []])
          yield* approve
          yield* pay(500)
          assert.deepStrictEqual(done, ["500 Approve"])
        })
      ))

    it.effect("of several pending approvals each decision reaches its own call, in whatever order they come", () =>
      test((process) =>
        Effect.gen(function*() {
          const calls = ["a", "b", "c", "d"]
          const program = Checkpoint.forEach(calls, (call) =>
            EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: call, about: { call } }).pipe(
              Effect.map((decision) =>
                `${call} ${decision._tag === "Reject" ? decision.reason : decision._tag}`
              )
            ), { concurrency: 4 }).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          const asked = yield* queue.use((queue) =>
            queue.list({ runId: "run" })
          )
          assert.strictEqual(asked.length, 4)
          for (const task of ["c", "a", "d", "b"]) {
            assert.isTrue((yield* Effect.flip(program)) instanceof Checkpoint.RunSuspended)
            const id = asked.find((one) => one.task === task)?.id ?? ""
            yield* elsewhere(process, EscalationQueue.decide(id, { _tag: "Reject", reason: `no ${task}` }))
          }
          assert.deepStrictEqual(yield* program, calls.map((call) => `${call} no ${call}`))
        })
      ))

    it.effect("a decision that comes before the wait begins is kept", () =>
      test((process) =>
        Effect.gen(function*() {
          // Decided while the run is still at work in another branch.
          const decideIt = Effect.gen(function*() {
            const [asked] = yield* queue.use((queue) => queue.list({ status: "open" }))
            yield* elsewhere(process, EscalationQueue.decide(asked?.id ?? "", { _tag: "Approve" }))
          })
          const approval = EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: "send?" })
          const meanwhile = Checkpoint.step("meanwhile", {}, Effect.orDie(decideIt))
          const program = Checkpoint.all([approval, meanwhile]).pipe(
            Effect.map(([{ _tag }]) => _tag),
            Checkpoint.run({ id: "run" })
          )
          assert.isTrue((yield* Effect.flip(program)) instanceof Checkpoint.RunSuspended)
          assert.strictEqual(yield* program, "Approve")
        })
      ))

    it.effect("undelivered tells the outcomes of runs until they are acknowledged, and no others", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const submit = (task: string, runId: string | undefined, timeToLive?: "1 second") =>
            service.submit({ reason: "RequiresHuman", task, runId, timeToLive })
          const decided = yield* submit("decided", "r1")
          const ownerless = yield* submit("of no run", undefined)
          const withdrawn = yield* submit("withdrawn", "r2")
          yield* submit("expired", "r3", "1 second")
          yield* submit("open", "r4")
          yield* TestClock.adjust("1 second")
          yield* service.expire
          for (const { id } of [decided, ownerless]) yield* service.decide(id, { _tag: "Retry" })
          yield* service.withdraw(withdrawn.id)
          const told = (count: number) =>
            elsewhere(process, queue.use((queue) => queue.undelivered.pipe(Stream.take(count), Stream.runCollect)))
              .pipe(
                Effect.map((records) => records.map(({ status, task }) => `${task} ${status}`))
              )
          assert.deepStrictEqual(yield* told(2), ["expired expired", "decided resolved"])
          const confirmed = yield* service.get(decided.id)
          yield* service.confirm(confirmed)
          yield* elsewhere(process, queue.use((queue) => queue.acknowledge(confirmed)))
          assert.deepStrictEqual(yield* told(1), ["expired expired"])
          const again = yield* submit("again", "r5")
          const before = yield* service.decide(again.id, { _tag: "Retry" })
          yield* service.acknowledge(before)
          yield* service.reopen(again.id)
          yield* service.acknowledge(before)
          yield* service.decide(again.id, { _tag: "Approve" })
          // It is not this that its run was woken with.
          yield* service.acknowledge(before)
          assert.deepStrictEqual(yield* told(2), ["expired expired", "again resolved"])
        })
      ))

    it.effect("a claim keeps others out until its lease is over, and can be prolonged and released", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          const claimed = yield* service.claim(id, { by: "ann", lease: "10 minutes" })
          assert.strictEqual(claimed.status, "claimed")
          const others = yield* elsewhere(
            process,
            queue.use((queue) =>
              Effect.all([
                Effect.flip(queue.claim(id, { by: "bob" })),
                Effect.flip(queue.decide(id, { _tag: "Retry" }, { by: "bob" })),
                Effect.flip(queue.decide(id, { _tag: "Retry" })),
                Effect.flip(queue.release(id, { by: "bob" }))
              ])
            )
          )
          assert.deepStrictEqual(others.map(tagOf), Array.from({ length: 4 }, () => "AlreadyClaimed"))
          yield* TestClock.adjust("9 minutes")
          yield* service.claim(id, { by: "ann", lease: "10 minutes" })
          yield* TestClock.adjust("9 minutes")
          assert.strictEqual((yield* service.get(id)).status, "claimed")
          yield* TestClock.adjust("1 minute")
          assert.strictEqual((yield* service.get(id)).status, "open")
          yield* service.claim(id, { by: "bob" })
          assert.strictEqual((yield* service.release(id, { by: "bob" })).status, "open")
          yield* service.claim(id, { by: "ann" })
          assert.strictEqual((yield* service.decide(id, { _tag: "Retry" }, { by: "ann" })).claim, undefined)
        })
      ))

    it.effect("many workers claim every escalation once, the oldest first", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const ids: Array<string> = []
          for (let n = 0; n < 8; n++) {
            ids.push((yield* service.submit({ reason: "RequiresHuman", task: `${n}` })).id)
            yield* TestClock.adjust("1 second")
          }
          const first = yield* service.claimNext({ by: "ann" })
          assert.strictEqual(Option.getOrThrow(first).id, ids[0])
          const claim = queue.use((queue) => queue.claimNext({ by: "worker" }))
          const claimed = yield* Effect.forEach(
            Array.from({ length: 10 }, (_, n) => n),
            (n) => n % 2 === 0 ? claim : elsewhere(process, claim),
            { concurrency: "unbounded" }
          )
          const got = claimed.filter(Option.isSome).map(({ value }) => value.id)
          assert.deepStrictEqual(got.toSorted(), ids.slice(1).toSorted())
        })
      ))

    it.effect("depth and oldestAge tell what waits, claimed or not", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          assert.deepStrictEqual(yield* service.oldestAge, Option.none())
          const first = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          yield* TestClock.adjust("1 minute")
          yield* service.submit({ reason: "RequiresHuman", task: "b" })
          yield* service.claim(first.id, { by: "ann" })
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(yield* service.depth, 2)
          assert.deepStrictEqual(yield* service.oldestAge, Option.some(Duration.minutes(2)))
          yield* service.decide(first.id, { _tag: "Retry" }, { by: "ann" })
          assert.strictEqual(yield* service.depth, 1)
          assert.deepStrictEqual(yield* service.oldestAge, Option.some(Duration.minutes(1)))
        })
      ))

    it.effect("list filters by status, run and reason, the oldest first, up to a limit", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const submit = (task: string, runId: string, reason: EscalationQueue.Reason) =>
            Effect.tap(service.submit({ reason, task, runId }), TestClock.adjust("1 second"))
          yield* submit("a", "r1", "RequiresHuman")
          const b = yield* submit("b", "r2", "LoopDetected")
          yield* submit("c", "r1", "LoopDetected")
          yield* service.decide(b.id, { _tag: "Abandon", reason: "x" })
          const tasks = (filter?: EscalationQueue.Filter) =>
            Effect.map(service.list(filter), (records) => records.map(({ task }) => task).join(""))
          assert.deepStrictEqual(
            yield* Effect.all([
              tasks(),
              tasks({ status: "open" }),
              tasks({ status: "resolved" }),
              tasks({ runId: "r1" }),
              tasks({ reason: "LoopDetected", status: "open" }),
              tasks({ limit: 2 })
            ]),
            ["abc", "ac", "b", "ac", "c", "ab"]
          )
        })
      ))

    it.effect("changes tells every change from now on, wherever it is made", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          yield* service.submit({ reason: "RequiresHuman", task: "before" })
          const seen: Array<string> = []
          yield* service.changes.pipe(
            Stream.runForEach(({ status, task }) => Effect.sync(() => void seen.push(`${task} ${status}`))),
            Effect.forkChild({ startImmediately: true })
          )
          // Until it listens.
          while (seen.length === 0) {
            yield* service.submit({ reason: "RequiresHuman", task: "probe" })
            yield* aMoment
          }
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          yield* until(() => seen.includes("a open"))
          yield* elsewhere(process, queue.use((queue) => queue.claim(id, { by: "ann" })))
          yield* until(() => seen.includes("a claimed"))
          yield* elsewhere(process, queue.use((queue) => queue.decide(id, { _tag: "Retry" }, { by: "ann" })))
          yield* until(() => seen.includes("a resolved"))
          assert.deepStrictEqual(seen.filter((one) => one !== "probe open"), ["a open", "a claimed", "a resolved"])
        })
      ))

    it.effect("open tells what is open, and then what comes to be", () =>
      test((process) =>
        Effect.gen(function*() {
          const service = yield* queue
          const decided = yield* service.submit({ reason: "RequiresHuman", task: "decided" })
          yield* service.decide(decided.id, { _tag: "Retry" })
          const first = yield* service.submit({ reason: "RequiresHuman", task: "first" })
          const seen: Array<string> = []
          yield* service.open.pipe(
            Stream.runForEach(({ task }) => Effect.sync(() => void seen.push(task))),
            Effect.forkChild({ startImmediately: true })
          )
          yield* until(() => seen.length === 1)
          yield* service.claim(first.id, { by: "ann" })
          yield* elsewhere(process, EscalationQueue.submit({ reason: "RequiresHuman", task: "second" }))
          yield* until(() => seen.length === 2)
          yield* service.release(first.id, { by: "ann" })
          yield* until(() => seen.length === 3)
          assert.deepStrictEqual(seen, ["first", "second", "first"])
        })
      ))

    it.effect("prune removes what is over, and nothing that waits", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const decided = yield* service.submit({ reason: "RequiresHuman", task: "decided" })
          yield* service.submit({ reason: "RequiresHuman", task: "expired", timeToLive: "1 second" })
          yield* service.submit({ reason: "RequiresHuman", task: "waits" })
          yield* service.decide(decided.id, { _tag: "Retry" })
          yield* TestClock.adjust("1 day")
          const late = yield* service.submit({ reason: "RequiresHuman", task: "late" })
          yield* service.decide(late.id, { _tag: "Retry" })
          assert.strictEqual(yield* service.prune("1 hour"), 2)
          assert.deepStrictEqual((yield* service.list()).map(({ task }) => task), ["waits", "late"])
        })
      ))

    it.effect("a decision that was of no use can be taken back and made anew", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          yield* service.decide(id, { _tag: "Retry" }, { by: "ann" })
          assert.strictEqual((yield* service.reopen(id)).status, "open")
          yield* service.decide(id, { _tag: "Approve" })
          assert.strictEqual((yield* service.get(id)).resolution?.decision._tag, "Approve")
        })
      ))

    it.effect("a decision that a run has used stands", () =>
      test((process) =>
        Effect.gen(function*() {
          const program = EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: "send?" }).pipe(
            Checkpoint.run({ id: "run" })
          )
          yield* Effect.flip(program)
          const service = yield* queue
          const [waiting] = yield* service.list()
          const id = waiting?.id ?? ""
          yield* service.decide(id, { _tag: "Approve" })
          yield* program
          const error = yield* Effect.flip(elsewhere(process, queue.use((queue) => queue.reopen(id))))
          assert.deepStrictEqual(
            error instanceof EscalationQueue.EscalationError && error.reason,
            { _tag: "AlreadyUsed", decision: "Approve" }
          )
          assert.strictEqual((yield* service.get(id)).resolution?.decision._tag, "Approve")
        })
      ))

    it.effect("a decision that changed since it was read is not confirmed", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          const read = yield* service.decide(id, { _tag: "Approve" })
          yield* service.reopen(id)
          assert.isFalse(yield* service.confirm(read))
          assert.isTrue(yield* service.confirm(yield* service.decide(id, { _tag: "Retry" })))
        })
      ))

    it.effect("an escalation that somebody holds is not taken from them by reopening it", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          yield* service.claim(id, { by: "ann" })
          assert.strictEqual(tagOf(yield* Effect.flip(service.reopen(id))), "AlreadyClaimed")
          assert.strictEqual(tagOf(yield* Effect.flip(service.claim(id, { by: "bob" }))), "AlreadyClaimed")
        })
      ))

    it.effect("values that no type allows are failures that name them, and change nothing", () =>
      test(() =>
        Effect.gen(function*() {
          const service = yield* queue
          const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a" })
          // As they come from a form or another program, whatever the types say.
          const from = (json: string): never => JSON.parse(json) as never
          const failing = (effect: Effect.Effect<unknown, EscalationQueue.EscalationError>) =>
            Effect.map(Effect.flip(effect), (error) => [error.reason._tag, error.message] as const)
          for (const decision of [`{"_tag":"approve"}`, "null", `"Approve"`, `{"_tag":"Reject"}`]) {
            const [tag, message] = yield* failing(service.decide(id, from(decision)))
            assert.strictEqual(tag, "InvalidDecision")
            if (decision !== "null") assert.match(message, /approve|Approve|Reject/)
          }
          for (
            const [named, effect] of [
              ["Nonsense", service.submit({ reason: from(`"Nonsense"`), task: "a" })],
              ["null", service.submit({ reason: "RequiresHuman", task: from("null") })],
              ["Maybe", service.submit({ reason: "RequiresHuman", task: "a", decisions: from(`["Maybe"]`) })],
              ["timeToLive", service.submit({ reason: "RequiresHuman", task: "a", timeToLive: 0 })],
              ["runId", service.submit({ reason: "RequiresHuman", task: "a", runId: from("7") })],
              ["limit", service.list({ limit: 0 })],
              ["status", service.list({ status: from(`"done"`) })],
              ["lease", service.claim(id, { by: "ann", lease: "0 seconds" })],
              ["by", service.claim(id, { by: "" })],
              ["by", service.claimNext({ by: from("null") })],
              ["by", service.release(id, { by: from("null") })],
              ["by", service.decide(id, { _tag: "Approve" }, { by: from("7") })],
              ["olderThan", service.prune(from(`"soon"`))]
            ] as const
          ) {
            const [tag, message] = yield* failing(effect)
            assert.strictEqual(tag, "InvalidRequest", message)
            assert.include(message, named)
          }
          assert.deepStrictEqual((yield* service.list()).map(({ status }) => status), ["open"])
        })
      ))

    it.effect("secrets do not reach the store in clear", () =>
      test(() =>
        Effect.gen(function*() {
          const { id } = yield* EscalationQueue.submit({
            reason: "RequiresHuman",
            task: "log in with Bearer abcdefgh12345678?",
            error: new Error(`401 for ${["sk", "ant", "api03", "0123456789abcdef"].join("-")}`),
            state: { key: Redacted.make("hunter2"), apiKey: "hunter2", inputTokens: 5 },
            context: { headers: { Authorization: "hunter2" }, url: "postgres://bob:hunter2@db/x" }
          })
          const text = JSON.stringify(yield* queue.use((queue) => queue.get(id)))
          assert.notInclude(text, "hunter2")
          assert.notInclude(text, "abcdefgh12345678")
          assert.notInclude(text, "0123456789abcdef")
          assert.include(text, "\"inputTokens\":5")
        })
      ))

    it.effect("ask suspends the run, is asked once however often it is resumed, and answers its decision", () =>
      test((process) =>
        Effect.gen(function*() {
          let before = 0
          let after = 0
          const program = Effect.gen(function*() {
            yield* Checkpoint.step("prepare", {}, Effect.sync(() => void before++))
            const decision = yield* EscalationQueue.ask({
              name: "approval",
              reason: "IrreversibleAction",
              task: "send it?",
              decisions: ["Approve", "Reject"]
            })
            yield* Checkpoint.step("send", {}, Effect.sync(() => void after++))
            return decision._tag
          }).pipe(Checkpoint.run({ id: "mail-1" }))

          const first = yield* Effect.flip(program)
          const again = yield* Effect.flip(elsewhere(process, program))
          assert.isTrue(first instanceof Checkpoint.RunSuspended)
          assert.deepStrictEqual(again, first)
          const waiting = yield* queue.use((queue) => queue.list())
          assert.deepStrictEqual(
            waiting.map(({ runId, status, step }) => ({ runId, step, status })),
            [{ runId: "mail-1", step: "approval", status: "open" }]
          )
          const id = waiting[0]?.id ?? ""
          assert.isTrue(first instanceof Checkpoint.RunSuspended && first.escalationId === id)

          yield* elsewhere(process, EscalationQueue.decide(id, { _tag: "Approve" }))
          assert.strictEqual(yield* elsewhere(process, program), "Approve")
          // The journal has it now, and does not ask the queue again.
          yield* TestClock.adjust("1 day")
          yield* queue.use((queue) => queue.prune("1 hour"))
          assert.strictEqual(yield* program, "Approve")
          assert.deepStrictEqual({ before, after }, { before: 1, after: 1 })
        })
      ))

    it.effect("a run that was cleared and begins anew does not find the approval of the old one", () =>
      test(() =>
        Effect.gen(function*() {
          const program = EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: "send?" }).pipe(
            Checkpoint.run({ id: "run" })
          )
          yield* Effect.flip(program)
          const [first] = yield* queue.use((queue) => queue.list())
          yield* EscalationQueue.decide(first?.id ?? "", { _tag: "Approve" })
          yield* Checkpoint.clear("run")
          assert.isTrue((yield* Effect.flip(program)) instanceof Checkpoint.RunSuspended)
          assert.strictEqual(yield* queue.use((queue) => queue.depth), 1)
        })
      ))

    it.effect("two questions of one run are two escalations", () =>
      test(() =>
        Effect.gen(function*() {
          const question = (name: string) =>
            Effect.result(EscalationQueue.ask({ name, reason: "RequiresHuman", task: name }))
          yield* Effect.all([question("a"), question("a"), question("b")]).pipe(
            Checkpoint.run({ id: "run" }),
            Effect.ignore
          )
          assert.strictEqual(yield* queue.use((queue) => queue.depth), 3)
        })
      ))

    it.effect("an escalation that expired is told to the run", () =>
      test(() =>
        Effect.gen(function*() {
          const program = EscalationQueue.ask({
            name: "approval",
            reason: "RequiresHuman",
            task: "now?",
            timeToLive: "1 hour"
          }).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          yield* TestClock.adjust("1 hour")
          const error = yield* Effect.flip(program)
          assert.isTrue(error instanceof EscalationQueue.EscalationError && tagOf(error) === "Expired")
        })
      ))

    it.effect("an escalation that expired is asked anew by the next run, with a new deadline", () =>
      test((process) =>
        Effect.gen(function*() {
          const program = EscalationQueue.ask({
            name: "approval",
            reason: "RequiresHuman",
            task: "now?",
            timeToLive: "1 hour"
          }).pipe(Effect.map(({ _tag }) => _tag), Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          for (const _ of [1, 2]) {
            yield* TestClock.adjust("1 hour")
            const expired = yield* Effect.flip(elsewhere(process, program))
            assert.isTrue(expired instanceof EscalationQueue.EscalationError && tagOf(expired) === "Expired")
            assert.isTrue((yield* Effect.flip(elsewhere(process, program))) instanceof Checkpoint.RunSuspended)
          }
          const open = yield* queue.use((queue) => queue.list({ status: "open" }))
          assert.strictEqual(open.length, 1)
          for (const { id } of open) yield* EscalationQueue.decide(id, { _tag: "Approve" })
          yield* TestClock.adjust("1 day")
          assert.strictEqual(yield* program, "Approve")
        })
      ))

    it.effect("a supplied value that the program's own schema refuses is not recorded, and asked for again with the reason", () =>
      test((process) =>
        Effect.gen(function*() {
          const Even = Schema.Int.check(Schema.makeFilter((n: number) => n % 2 === 0 || "odd"))
          const program = EscalationQueue.ask({
            name: "number",
            reason: "RequiresHuman",
            task: "which?",
            accepts: Even
          }).pipe(Checkpoint.run({ id: "run" }))
          yield* Effect.flip(program)
          const service = yield* queue
          const [waiting] = yield* service.list()
          const id = waiting?.id ?? ""
          yield* service.decide(id, { _tag: "Supply", value: 3 })
          const error = yield* Effect.flip(elsewhere(process, program))
          assert.instanceOf(error, Checkpoint.RunSuspended)
          const again = yield* service.get(id)
          assert.deepStrictEqual([again.status, again.resolution], ["open", undefined])
          assert.deepStrictEqual(again.refused?.decision, { _tag: "Supply", value: 3 })
          assert.include(again.refused?.issue, "odd")
          yield* service.decide(id, { _tag: "Supply", value: 4 })
          assert.deepStrictEqual(yield* program, { _tag: "Supply", value: 4 })
        })
      ))

    describe("reconcile", () => {
      const payment = (executions: Array<string>) =>
        Checkpoint.step(
          "pay",
          {
            success: Schema.DateFromMillis,
            effects: "atMostOnce",
            reconcile: EscalationQueue.reconcile({ task: "did it go out? supply when", success: Schema.DateFromMillis })
          },
          Effect.suspend(() => {
            executions.push("pay")
            return executions.length === 1 ? Effect.die("the line broke") : Effect.succeed(new Date(2))
          })
        ).pipe(Checkpoint.run({ id: "payment" }))

      const decided = (process: Process, decision: EscalationQueue.Decision) =>
        Effect.gen(function*() {
          const executions: Array<string> = []
          const suspended = yield* Effect.flip(payment(executions))
          assert.isTrue(suspended instanceof Checkpoint.RunSuspended)
          const [waiting] = yield* queue.use((queue) => queue.list({ reason: "AmbiguousState", status: "open" }))
          yield* elsewhere(process, EscalationQueue.decide(waiting?.id ?? "", decision))
          const end = yield* Effect.result(elsewhere(process, payment(executions)))
          return { end, executions, id: waiting?.id ?? "" }
        })

      it.effect("Supply says that it happened: the step has that result, and is not executed again", () =>
        test((process) =>
          Effect.gen(function*() {
            const { end, executions } = yield* decided(process, { _tag: "Supply", value: 7 })
            assert.deepStrictEqual(end, Result.succeed(new Date(7)))
            assert.strictEqual(executions.length, 1)
          })
        ))

      it.effect("Retry says that it did not happen: the step is executed once more", () =>
        test((process) =>
          Effect.gen(function*() {
            const { end, executions } = yield* decided(process, { _tag: "Retry" })
            assert.deepStrictEqual(end, Result.succeed(new Date(2)))
            assert.strictEqual(executions.length, 2)
          })
        ))

      it.effect("a supplied value that does not decode in the run is asked for again with the reason", () =>
        test((process) =>
          Effect.gen(function*() {
            const Even = Schema.Int.check(Schema.makeFilter((n: number) => n % 2 === 0 || "odd"))
            const program = Checkpoint.step(
              "pay",
              {
                success: Even,
                effects: "atMostOnce",
                reconcile: EscalationQueue.reconcile({ task: "which one?", success: Even })
              },
              Effect.die("the line broke")
            ).pipe(Checkpoint.run({ id: "payment" }))
            yield* Effect.flip(program)
            const service = yield* queue
            const [waiting] = yield* service.list()
            const id = waiting?.id ?? ""
            yield* service.decide(id, { _tag: "Supply", value: 3 })
            const error = yield* Effect.flip(elsewhere(process, program))
            assert.instanceOf(error, Checkpoint.RunSuspended)
            const again = yield* service.get(id)
            assert.deepStrictEqual([again.status, again.resolution], ["open", undefined])
            assert.deepStrictEqual(again.refused?.decision, { _tag: "Supply", value: 3 })
            assert.include(again.refused?.issue, "odd")
            yield* service.decide(id, { _tag: "Supply", value: 4 })
            assert.strictEqual(yield* program, 4)
          })
        ))

      it.effect("Abandon is a typed failure, and the step is not executed again", () =>
        test((process) =>
          Effect.gen(function*() {
            const { end, executions, id } = yield* decided(process, { _tag: "Abandon", reason: "too late" })
            assert.isTrue(Result.isFailure(end))
            if (Result.isFailure(end)) {
              assert.deepStrictEqual(
                end.failure,
                new EscalationQueue.Abandoned({ escalationId: id, decision: "Abandon", reason: "too late" })
              )
            }
            assert.strictEqual(executions.length, 1)
          })
        ))
    })
  })
}
