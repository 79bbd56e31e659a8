import { assert, describe, it } from "@effect/vitest"
import { Clock, DateTime, Duration, Effect, Fiber, Random, Schema } from "effect"
import { Backoff, Checkpoint, Fault, Retry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { killed, kinds, makeLog, statusOf, Stop, test, text } from "./runs.ts"

class Busy extends Schema.TaggedError<Busy>()("Busy", { n: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}

/** How many seconds of virtual time an effect takes. */
const elapsed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const before = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(Effect.andThen(Effect.exit(effect), Clock.currentTimeMillis), {
      startImmediately: true
    })
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
    return ((yield* Fiber.join(fiber)) - before) / 1000
  })

/** Lets a run be killed after some seconds. */
const killedAfter = <A, E, R>(seconds: number, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(killed(Effect.timeoutOption(effect, Duration.seconds(seconds))), {
      startImmediately: true
    })
    yield* TestClock.adjust(Duration.seconds(seconds))
    yield* Fiber.join(fiber)
  })

describe("What a program reads through its run", () => {
  test("is the same on every replay, and at each place another", () =>
    Effect.gen(function*() {
      const read = Effect.gen(function*() {
        const all = []
        for (let n = 0; n < 3; n++) {
          all.push(DateTime.toEpochMillis(yield* Checkpoint.now), yield* Checkpoint.random, yield* Checkpoint.uuid)
          yield* TestClock.adjust("1 second")
        }
        return all
      })
      let stop = true
      const program = Effect.tap(read, () => stop ? new Stop() : Effect.void)
      const seen: Array<ReadonlyArray<unknown>> = []
      const run = (id: string, seed: string) =>
        program.pipe(
          Effect.tap((all) => Effect.sync(() => seen.push(all))),
          Checkpoint.run({ id }),
          Random.withSeed(seed)
        )
      yield* Effect.flip(run("r", "one"))
      yield* TestClock.adjust("1 hour")
      yield* Effect.flip(run("r", "two"))
      stop = false
      yield* run("r", "three")
      yield* run("r", "four")
      yield* run("other", "five")
      assert.strictEqual(seen.length, 3)
      assert.deepStrictEqual(seen[1], seen[0])
      assert.strictEqual(new Set(seen[0]).size, 9, "all nine differ")
      assert.isFalse(seen[2]?.some((value) => seen[0]?.includes(value)), "another run has others")
      assert.isBelow(Number(seen[0]?.[0]), 3_600_000, "the time is that of the first life")
    }))

  test("as a UUID is one of version 4", () =>
    Effect.gen(function*() {
      const ids = yield* Effect.replicateEffect(Checkpoint.uuid, 50).pipe(Checkpoint.run({ id: "r" }))
      for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      assert.strictEqual(new Set(ids).size, 50)
    }))
})

describe("Checkpoint.idempotencyKey", () => {
  test("is the same on every attempt and every life, and differs between steps, branches, occurrences and runs", () =>
    Effect.gen(function*() {
      const keys: Array<readonly [string, string]> = []
      let tries = 0
      const key = (place: string) =>
        Effect.flatMap(Checkpoint.idempotencyKey, (key) => Effect.sync(() => void keys.push([place, key])))
      const program = (id: string) =>
        Effect.gen(function*() {
          yield* Checkpoint.step("a", {}, key(`${id} a`))
          yield* Checkpoint.step("a", {}, key(`${id} a#2`))
          yield* Checkpoint.forEach([0, 1], (n) => Checkpoint.step("a", {}, key(`${id} ${n}`)))
          yield* Checkpoint.step(
            "outer",
            {},
            Effect.andThen(key(`${id} outer`), Checkpoint.step("a", {}, key(`${id} inner`)))
          )
          const retry = Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 3 })
          const flaky = Effect.andThen(
            key(`${id} flaky`),
            Effect.suspend(() => ++tries % 4 === 0 ? Effect.void : new Busy({ n: tries }))
          )
          yield* Checkpoint.step("flaky", { retry }, flaky)
        }).pipe(Checkpoint.run({ id }))
      for (const id of ["r", "s"]) {
        yield* Effect.flip(program(id))
        yield* program(id)
      }
      const byPlace = new Map<string, Set<string>>()
      for (const [place, key] of keys) byPlace.set(place, (byPlace.get(place) ?? new Set()).add(key))
      assert.strictEqual(byPlace.size, 14)
      assert.isTrue([...byPlace.values()].every((found) => found.size === 1))
      assert.strictEqual(new Set(keys.map(([, key]) => key)).size, 14)
      assert.strictEqual(keys.filter(([place]) => place === "r flaky").length, 4)
    }))

  test("is that of the step in its reconcile, too", () =>
    Effect.gen(function*() {
      const keys: Array<string> = []
      const key = Effect.flatMap(Checkpoint.idempotencyKey, (key) => Effect.sync(() => void keys.push(key)))
      const program = Checkpoint.step(
        "pay",
        { effects: "atMostOnce", reconcile: Effect.as(key, Checkpoint.notHappened) },
        Effect.andThen(key, Effect.suspend(() => keys.length < 5 ? Effect.interrupt : Effect.void))
      ).pipe(Checkpoint.run({ id: "r" }))
      for (let life = 0; life < 3; life++) yield* Effect.exit(program)
      assert.strictEqual(keys.length, 5)
      assert.strictEqual(new Set(keys).size, 1)
    }))

  test("differs from that of a run of the same id that was cleared", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("a", text, Checkpoint.idempotencyKey).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* program
      assert.strictEqual(yield* program, first)
      yield* Checkpoint.clear("r")
      assert.notStrictEqual(yield* program, first)
    }))
})

describe("Checkpoint.sleep", () => {
  test("keeps its first deadline through any number of crashes", () =>
    Effect.gen(function*() {
      const program = Effect.andThen(Checkpoint.sleep("cool off", "10 minutes"), Checkpoint.step("a", {}, Effect.void))
        .pipe(
          Checkpoint.run({ id: "r" })
        )
      // Each crash costs its seconds and half a minute until the lease is over.
      for (const seconds of [60, 100, 29]) yield* killedAfter(seconds, program)
      assert.strictEqual(yield* elapsed(program), 600 - (60 + 100 + 29) - 3 * 31)
      assert.strictEqual(yield* elapsed(program), 0)
    }))

  test("is over when the run is resumed late", () =>
    Effect.gen(function*() {
      const program = Checkpoint.sleep("cool off", "10 minutes").pipe(Checkpoint.run({ id: "r" }))
      yield* killedAfter(5, program)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* elapsed(program), 0)
    }))

  it("refuses what is no duration", () => {
    assert.throws(() => Checkpoint.sleep("s", NaN), /duration/)
    assert.throws(() => Checkpoint.sleep("", "1 second"), /name/)
  })
})

describe("Checkpoint.deadline", () => {
  test("is not moved by crashes", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", text, did("a"))
        yield* Effect.sleep("4 minutes")
        yield* Checkpoint.step("b", text, did("b"))
        yield* Effect.never
      }).pipe(Checkpoint.deadline("report", "10 minutes"), Checkpoint.run({ id: "r" }))
      yield* killedAfter(200, program)
      yield* killedAfter(100, program)
      assert.strictEqual(yield* elapsed(Effect.flip(program)), 600 - 300 - 62)
      const error = yield* Effect.flip(program)
      assert.strictEqual(error._tag, "DeadlineExceeded")
      assert.deepStrictEqual(log, ["a"])
    }))

  test("leaves alone what ends in time", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("a", text, Effect.succeed("a")).pipe(
        Checkpoint.deadline("report", "10 minutes"),
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual(yield* program, "a")
      yield* TestClock.adjust("1 day")
      assert.strictEqual((yield* Effect.flip(program))._tag, "DeadlineExceeded", "and is over on a later replay")
    }))
})

describe("Checkpoint.suspend", () => {
  test("suspends the run, and goes on when what it waits for has come", () =>
    Effect.gen(function*() {
      let came = false
      const program = Effect.suspend(() => came ? Effect.succeed("came") : Checkpoint.suspend("mail", "no mail yet"))
        .pipe(
          Checkpoint.run({ id: "r" })
        )
      const error = yield* Effect.flip(program)
      assert.isTrue(error._tag === "RunSuspended" && error.runId === "r" && error.reason === "no mail yet")
      assert.strictEqual(yield* statusOf("r"), "suspended")
      came = true
      assert.strictEqual(yield* program, "came")
    }))
})

describe("Checkpoint.step retry", () => {
  const every = (seconds: number, maxAttempts: number) =>
    Retry.policy({ backoff: Backoff.constant({ delay: Duration.seconds(seconds) }), maxAttempts })

  const flaky = (failures: number) => {
    let tries = 0
    return {
      tries: () => tries,
      execute: Effect.suspend(() => ++tries <= failures ? Effect.fail(new Busy({ n: tries })) : Effect.succeed("done"))
    }
  }

  test("tries again what makes sense, waits, and gives the value", () =>
    Effect.gen(function*() {
      const { execute, tries } = flaky(2)
      const program = Checkpoint.step("a", { ...text, retry: every(10, 5) }, execute).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual(yield* elapsed(program), 20)
      assert.strictEqual(tries(), 3)
      assert.deepStrictEqual(yield* kinds("r"), [
        "RunOpened",
        "StepRetried a",
        "StepRetried a",
        "StepSucceeded a",
        "RunCompleted"
      ])
    }))

  test("gives the last error when the attempts are used up, and a resumed run has as many again", () =>
    Effect.gen(function*() {
      const { execute, tries } = flaky(100)
      const program = Checkpoint.step("a", { ...text, retry: every(1, 3) }, execute).pipe(Checkpoint.run({ id: "r" }))
      yield* elapsed(program)
      assert.strictEqual(tries(), 3)
      assert.strictEqual(yield* statusOf("r"), "failed")
      yield* elapsed(program)
      assert.strictEqual(tries(), 6)
      assert.isTrue((yield* kinds("r")).includes("StepFailed a"))
    }))

  test("counts on after crashes: attempts, delays, and the time in all", () =>
    Effect.gen(function*() {
      const { execute, tries } = flaky(100)
      const program = Checkpoint.step("a", { ...text, retry: every(60, 4) }, execute).pipe(Checkpoint.run({ id: "r" }))
      yield* killedAfter(10, program) // one attempt, 10 of 60 seconds waited
      yield* killedAfter(5, program) // 19 are left when the lease is over, 5 of them waited here
      assert.strictEqual(tries(), 1)
      yield* killedAfter(70, program) // the second, overdue, and the third 60 seconds later
      assert.strictEqual(tries(), 3)
      const error = yield* Effect.forkChild(Effect.flip(program), { startImmediately: true })
      yield* TestClock.adjust("10 minutes")
      const last = yield* Fiber.join(error)
      assert.isTrue(last._tag === "Busy" && last.n === 4)
      assert.strictEqual(tries(), 4)
    }))

  test("waits longer each time also after a crash", () =>
    Effect.gen(function*() {
      const times: Array<number> = []
      const execute = Effect.andThen(
        Effect.map(Clock.currentTimeMillis, (millis) => times.push(millis / 1000)),
        new Busy({ n: 0 })
      )
      const retry = Retry.policy({
        backoff: Backoff.exponential({ base: "10 seconds", cap: "10 minutes" }),
        maxAttempts: 5
      })
      const program = Checkpoint.step("a", { retry }, execute).pipe(Checkpoint.run({ id: "r" }))
      yield* killedAfter(40, program)
      yield* killedAfter(40, program)
      yield* elapsed(program)
      const delays = times.slice(1).map((time, n) => time - (times[n] ?? 0))
      assert.deepStrictEqual(delays.slice(0, 2), [10, 20])
      assert.strictEqual(delays.length, 4)
      assert.isTrue(delays.every((delay, n) => delay >= 10 * 2 ** n), delays.join())
    }))

  test("gives up when the time in all is over, counted from the first failure in any life", () =>
    Effect.gen(function*() {
      const { execute, tries } = flaky(100)
      const retry = Retry.policy({
        backoff: Backoff.constant({ delay: "1 minute" }),
        maxAttempts: 100,
        maxElapsed: "5 minutes"
      })
      const program = Checkpoint.step("a", { ...text, retry }, execute).pipe(Checkpoint.run({ id: "r" }))
      yield* killedAfter(130, program)
      assert.strictEqual(tries(), 3)
      yield* elapsed(program)
      assert.strictEqual(tries(), 6)
    }))

  test("does not try again what makes no sense, and an at-most-once step only where nothing can have happened", () =>
    Effect.gen(function*() {
      for (
        const [verdict, effects, expected] of [
          [Fault.permanent, "idempotent", 1],
          [Fault.overloaded(), "idempotent", 3],
          [Fault.overloaded(), "atMostOnce", 3],
          [Fault.ambiguous, "idempotent", 3],
          [Fault.ambiguous, "atMostOnce", 1],
          [Fault.timedOut, "atMostOnce", 1]
        ] as const
      ) {
        let tries = 0
        const failing = Effect.suspend(() => {
          tries++
          return Effect.fail({ [Fault.verdictOf]: verdict })
        })
        const id = `${verdict._tag} ${effects}`
        yield* elapsed(Checkpoint.step("a", { effects, retry: every(1, 3) }, failing).pipe(Checkpoint.run({ id })))
        assert.strictEqual(tries, expected, id)
      }
    }))

  test("tries an at-most-once step again when reconcile finds that nothing happened", () =>
    Effect.gen(function*() {
      let tries = 0
      const execute = Effect.suspend(() =>
        ++tries < 3 ? Effect.fail({ [Fault.verdictOf]: Fault.overloaded() }) : Effect.void
      )
      const reconcile = Effect.succeed(Checkpoint.notHappened)
      const program = Checkpoint.step("pay", { effects: "atMostOnce", reconcile, retry: every(1, 5) }, execute).pipe(
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual(yield* elapsed(program), 2)
      assert.strictEqual(tries, 3)
      assert.strictEqual(yield* statusOf("r"), "completed")
    }))

  test("keeps the steps inside of an attempt that failed", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let tries = 0
      const execute = Effect.andThen(
        Checkpoint.step("inner", text, did("inner")),
        Effect.suspend(() => ++tries < 3 ? Effect.fail(new Busy({ n: tries })) : Effect.succeed("done"))
      )
      const program = Checkpoint.step("a", { ...text, retry: every(1, 5) }, execute).pipe(Checkpoint.run({ id: "r" }))
      yield* elapsed(program)
      assert.deepStrictEqual(log, ["inner"])
      assert.strictEqual(yield* program, "done")
    }))
})
