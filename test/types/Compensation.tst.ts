import { Effect, Schema } from "effect"
import { Checkpoint, Compensation, type EscalationQueue } from "effect-resilience"
import { describe, expect, it } from "tstyche"

class Receipt extends Schema.Class<Receipt>("Receipt")({ id: Schema.Int, amount: Schema.Finite }) {}
class NoSeats extends Schema.TaggedError<NoSeats>()("NoSeats", {}) {}
class Declined extends Schema.TaggedError<Declined>()("Declined", {}) {}
interface Bank {
  readonly bank: true
}
interface Airline {
  readonly airline: true
}

declare const charge: Effect.Effect<Receipt, Declined, Bank>
declare const book: Effect.Effect<string, NoSeats, Airline>
declare const refunding: Effect.Effect<void, "refund failed", Bank>

const refund = Compensation.make("refund", { input: Receipt }, () => refunding)
const cancel = Compensation.make(
  "cancel",
  { input: Schema.String },
  () => Effect.void as Effect.Effect<void, never, Airline>
)

const charging = Checkpoint.step("charge", { success: Receipt, undo: refund }, charge)
const booking = Checkpoint.step("book", { success: Schema.String, undo: cancel }, book)
const trip = Effect.andThen(charging, booking)

type Needs = Checkpoint.Run | EscalationQueue.EscalationQueue

describe("Compensation.make", () => {
  it("keeps its name, its input and what it needs, and adds no error to anything: its failures escalate", () => {
    expect(refund).type.toBe<Compensation.Compensation<"refund", Receipt, Bank>>()
    expect(cancel).type.toBe<Compensation.Compensation<"cancel", string, Airline>>()
  })

  it("has what its reconcile needs too", () => {
    const reconciled = Compensation.make(
      "refund",
      {
        input: Receipt,
        effects: "atMostOnce",
        reconcile: () =>
          Effect.succeed(Checkpoint.unknown) as Effect.Effect<Checkpoint.Reconciliation<void>, "lost", Airline>
      },
      () => refunding
    )
    expect(reconciled).type.toBe<Compensation.Compensation<"refund", Receipt, Bank | Airline>>()
  })
})

describe("A step with undo", () => {
  it("needs a saga that lists its compensation, and not yet what that needs", () => {
    expect(charging).type.toBe<
      Effect.Effect<Receipt, Declined | Checkpoint.StepError, Bank | Checkpoint.Run | Compensation.CanUndo<"refund">>
    >()
  })

  it("takes only a compensation for what it gives", () => {
    expect(Checkpoint.step).type.not.toBeCallableWith("book", { success: Schema.String, undo: refund }, book)
    expect(Checkpoint.step).type.not.toBeCallableWith("send", { undo: refund }, Effect.void)
    expect(Checkpoint.step).type.toBeCallableWith("book", { success: Schema.String, undo: cancel }, book)
  })

  it("is undone from something else with by, whose input is what the step gives", () => {
    const cancelReceipt = Compensation.make("cancelReceipt", { input: Schema.Int }, () => Effect.void)
    const step = Checkpoint.step(
      "charge",
      {
        success: Receipt,
        effects: "atMostOnce",
        undo: { by: cancelReceipt, input: (receipt) => receipt.id, inDoubt: () => 7 }
      },
      charge
    )
    expect(step).type.toBe<
      Effect.Effect<
        Receipt,
        Declined | Checkpoint.StepError | Checkpoint.AmbiguousStep,
        Bank | Checkpoint.Run | Compensation.CanUndo<"cancelReceipt">
      >
    >()
    expect(Checkpoint.step).type.not.toBeCallableWith(
      "charge",
      { success: Receipt, undo: { by: cancelReceipt, input: (receipt: Receipt) => String(receipt.id) } },
      charge
    )
    expect(Checkpoint.step).type.not.toBeCallableWith(
      "charge",
      { success: Receipt, undo: { by: cancelReceipt, input: (receipt: Receipt) => receipt.id, inDoubt: () => "7" } },
      charge
    )
  })
})

describe("Compensation.saga", () => {
  it("takes the errors of the program away, and fails with its own", () => {
    expect(Compensation.saga(trip, { name: "trip", undo: [refund, cancel] })).type.toBe<
      Effect.Effect<string, Compensation.SagaFailed | Compensation.SagaError, Bank | Airline | Needs>
    >()
    expect(trip.pipe(Compensation.saga({ name: "trip", undo: [refund, cancel] }))).type.toBe<
      Effect.Effect<string, Compensation.SagaFailed | Compensation.SagaError, Bank | Airline | Needs>
    >()
  })

  it("gives back the errors that its schema knows", () => {
    expect(trip.pipe(Compensation.saga({ name: "trip", undo: [refund, cancel], error: NoSeats }))).type.toBe<
      Effect.Effect<string, NoSeats | Compensation.SagaFailed | Compensation.SagaError, Bank | Airline | Needs>
    >()
  })

  it("provides only what it lists", () => {
    expect(trip.pipe(Compensation.saga({ name: "trip", undo: [refund] }))).type.toBe<
      Effect.Effect<
        string,
        Compensation.SagaFailed | Compensation.SagaError,
        Bank | Airline | Compensation.CanUndo<"cancel"> | Needs
      >
    >()
    expect(trip.pipe(Compensation.saga({ name: "trip" }))).type.toBe<
      Effect.Effect<
        string,
        Compensation.SagaFailed | Compensation.SagaError,
        Bank | Airline | Compensation.CanUndo<"refund"> | Compensation.CanUndo<"cancel"> | Needs
      >
    >()
  })

  it("needs what its compensations need, also where no step asks for them", () => {
    expect(Effect.void.pipe(Compensation.saga({ name: "trip", undo: [refund] }))).type.toBe<
      Effect.Effect<void, Compensation.SagaFailed | Compensation.SagaError, Bank | Needs>
    >()
  })

  it("lets a saga inside be undone by the one around", () => {
    const inner = booking.pipe(Compensation.saga({ name: "flight" }))
    const outer = Effect.andThen(charging, inner).pipe(Compensation.saga({ name: "trip", undo: [refund, cancel] }))
    expect(outer).type.toBe<
      Effect.Effect<string, Compensation.SagaFailed | Compensation.SagaError, Bank | Airline | Needs>
    >()
  })

  it("does not undo the steps of a compensation: they need a saga of their own", () => {
    const careless = Compensation.make("careless", { input: Schema.String }, () => booking)
    expect(Effect.void.pipe(Compensation.saga({ name: "trip", undo: [careless, cancel] }))).type.toBe<
      Effect.Effect<
        void,
        Compensation.SagaFailed | Compensation.SagaError,
        Airline | Compensation.CanUndo<"cancel"> | Needs
      >
    >()
  })

  it("says that the run may be suspended, for people decide about what cannot be undone", () => {
    expect<Compensation.SagaError>().type.toBeAssignableFrom<Checkpoint.RunSuspended>()
    expect<Compensation.SagaError>().type.toBeAssignableFrom<Checkpoint.StepError>()
    expect<Compensation.SagaError>().type.toBe<
      Checkpoint.StepError | Checkpoint.RunSuspended | EscalationQueue.EscalationError
    >()
  })
})
