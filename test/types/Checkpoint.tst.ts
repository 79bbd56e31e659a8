import { Effect, Schema, type Scope } from "effect"
import { Checkpoint, type CheckpointStore } from "effect-resilience"
import { describe, expect, it } from "tstyche"

class Full extends Schema.TaggedError<Full>()("Full", {}) {}
interface Db {
  readonly db: true
}

const work = Effect.succeed("done") as Effect.Effect<string, "down", Scope.Scope>
const nothing = Effect.void as Effect.Effect<void, "down">

describe("Checkpoint.step", () => {
  it("keeps the effect's types, and adds the run and what a step can fail with", () => {
    expect(Checkpoint.step("a", { success: Schema.String }, work)).type.toBe<
      Effect.Effect<string, "down" | Checkpoint.StepError, Scope.Scope | Checkpoint.Run>
    >()
  })

  it("returns nothing without a schema", () => {
    expect(Checkpoint.step("a", {}, nothing)).type.toBe<
      Effect.Effect<void, "down" | Checkpoint.StepError, Checkpoint.Run>
    >()
  })

  it("does not lose a value for want of a schema", () => {
    expect(Checkpoint.step).type.not.toBeCallableWith("a", {}, work)
    expect(Checkpoint.step).type.not.toBeCallableWith("a", { effects: "atMostOnce" }, work)
    expect(Checkpoint.step).type.toBeCallableWith("a", {}, Effect.fail("down"))
    expect(Checkpoint.step).type.toBeCallableWith("a", {}, Effect.asVoid(work))
    expect(Checkpoint.step).type.toBeCallableWith("a", { success: Schema.Void }, nothing)
  })

  it("takes only what its schema can write", () => {
    expect(Checkpoint.step).type.not.toBeCallableWith("a", { success: Schema.Finite }, work)
  })

  it("is ambiguous exactly when it is at most once", () => {
    expect(Checkpoint.step("a", { effects: "idempotent" }, nothing)).type.toBe<
      Effect.Effect<void, "down" | Checkpoint.StepError, Checkpoint.Run>
    >()
    expect(Checkpoint.step("a", { effects: "atMostOnce" }, nothing)).type.toBe<
      Effect.Effect<void, "down" | Checkpoint.StepError | Checkpoint.AmbiguousStep, Checkpoint.Run>
    >()
  })

  it("has the errors and requirements of reconcile, and may still be ambiguous", () => {
    const reconcile = Effect.succeed(Checkpoint.happened("x")) as Effect.Effect<
      Checkpoint.Reconciliation<string>,
      "lost",
      Db
    >
    expect(Checkpoint.step("a", { success: Schema.String, effects: "atMostOnce", reconcile }, work)).type.toBe<
      Effect.Effect<
        string,
        "down" | "lost" | Checkpoint.StepError | Checkpoint.AmbiguousStep,
        Scope.Scope | Db | Checkpoint.Run
      >
    >()
  })

  it("fails with what its error schema gives back", () => {
    expect(Checkpoint.step("a", { error: Full }, nothing)).type.toBe<
      Effect.Effect<void, "down" | Full | Checkpoint.StepError, Checkpoint.Run>
    >()
    expect(Checkpoint.step("a", { error: Schema.Literal("down") }, nothing)).type.toBe<
      Effect.Effect<void, "down" | Checkpoint.StepError, Checkpoint.Run>
    >()
  })
})

describe("Checkpoint.run", () => {
  it("takes the run away, and adds the store and what a run can fail with", () => {
    const program = Checkpoint.step("a", { success: Schema.String }, work)
    type Expected = Effect.Effect<
      string,
      "down" | Checkpoint.StepError | Checkpoint.RunError,
      Scope.Scope | CheckpointStore.CheckpointStore
    >
    expect(Checkpoint.run(program, { id: "r" })).type.toBe<Expected>()
    expect(program.pipe(Checkpoint.run({ id: "r", version: 2, input: { a: 1 } }))).type.toBe<Expected>()
  })

  it("has no ambiguous step of its own", () => {
    expect(Effect.void.pipe(Checkpoint.run({ id: "r" }))).type.toBe<
      Effect.Effect<void, Checkpoint.RunError, CheckpointStore.CheckpointStore>
    >()
  })
})

describe("scopes", () => {
  it("forEach keeps the branches' types", () => {
    expect(Checkpoint.forEach([1, 2], (n) => Effect.as(nothing, n), { concurrency: 2 })).type.toBe<
      Effect.Effect<Array<number>, "down" | Checkpoint.StepError, Checkpoint.Run>
    >()
  })

  it("all keeps the shape of a tuple and of a record", () => {
    expect(Checkpoint.all([Effect.succeed(1), work])).type.toBe<
      Effect.Effect<[number, string], "down" | Checkpoint.StepError, Scope.Scope | Checkpoint.Run>
    >()
    expect(Checkpoint.all({ n: Effect.succeed(1), w: work })).type.toBe<
      Effect.Effect<{ n: number; w: string }, "down" | Checkpoint.StepError, Scope.Scope | Checkpoint.Run>
    >()
  })

  it("within keeps the effect's types", () => {
    expect(work.pipe(Checkpoint.within("a"))).type.toBe<
      Effect.Effect<
        string,
        "down" | Checkpoint.ConcurrentSteps | Checkpoint.CheckpointMismatch,
        Scope.Scope | Checkpoint.Run
      >
    >()
  })
})
