import { assert, describe } from "@effect/vitest"
import {
  BigDecimal,
  Chunk,
  DateTime,
  Duration,
  Effect,
  Equal,
  Exit,
  HashMap,
  HashSet,
  Option,
  Result,
  Schema
} from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { emptyStore, makeLog, statusOf, Stop, test } from "./runs.ts"

class Order extends Schema.Class<Order>("Order")({ id: Schema.String, at: Schema.Date }) {}

class Declined extends Schema.TaggedError<Declined>()("Declined", {
  code: Schema.Finite,
  at: Schema.Date,
  amounts: Schema.ReadonlyMap(Schema.String, Schema.BigInt),
  note: Schema.optional(Schema.String)
}) {}

const cases: ReadonlyArray<readonly [name: string, schema: Schema.Codec<unknown, unknown>, value: unknown]> = [
  ["undefined", Schema.Undefined, undefined],
  ["null", Schema.Null, null],
  ["a value or undefined", Schema.UndefinedOr(Schema.String), undefined],
  ["an optional property that is missing", Schema.Struct({ a: Schema.optionalKey(Schema.String) }), {}],
  ["a property that is undefined", Schema.Struct({ a: Schema.UndefinedOr(Schema.String) }), { a: undefined }],
  ["undefined in an array", Schema.Array(Schema.UndefinedOr(Schema.Finite)), [1, undefined, 2]],
  ["a Date", Schema.Date, new Date(1_234_567_890_123)],
  ["a DateTime", Schema.DateTimeUtc, DateTime.makeUnsafe(1_234_567_890_123)],
  ["a Duration", Schema.Duration, Duration.millis(1234.5)],
  ["an infinite Duration", Schema.Duration, Duration.infinity],
  ["a Map", Schema.ReadonlyMap(Schema.Date, Schema.BigInt), new Map([[new Date(1), 1n], [new Date(2), 2n]])],
  ["a Set", Schema.ReadonlySet(Schema.String), new Set(["a", "b", "__proto__"])],
  ["a HashMap", Schema.HashMap(Schema.String, Schema.Finite), HashMap.make(["a", 1], ["b", 2])],
  ["a HashSet", Schema.HashSet(Schema.String), HashSet.make("a", "b")],
  ["a Chunk", Schema.Chunk(Schema.Finite), Chunk.make(1, 2)],
  ["an Option", Schema.Array(Schema.Option(Schema.Date)), [Option.none(), Option.some(new Date(7))]],
  ["a Result", Schema.Result(Schema.Finite, Schema.String), Result.fail("no")],
  ["an Exit", Schema.Exit(Schema.Finite, Schema.String, Schema.Defect()), Exit.fail("no")],
  ["a bigint", Schema.BigInt, -(2n ** 80n)],
  ["a BigDecimal", Schema.BigDecimal, BigDecimal.fromStringUnsafe("0.1000000000000000000001")],
  ["numbers that are none", Schema.Array(Schema.Number), [NaN, Infinity, -Infinity, 0, Number.MAX_VALUE, 5e-324]],
  ["binary data", Schema.Uint8Array, Uint8Array.from([0, 1, 255, 128, 0])],
  ["empty binary data", Schema.Uint8Array, new Uint8Array(0)],
  ["null bytes, control characters and quotes", Schema.String, "a\0b\u0001\u001f\u007f\u2028\"'\\\n\r\t"],
  ["every kind of Unicode", Schema.String, "ä☃🦉\u{10ffff}e\u0301"],
  ["half of a surrogate pair", Schema.String, "a\ud800b"],
  ["a text that looks like JSON", Schema.String, "{\"_tag\":\"StepFailed\"}"],
  ["a symbol of the program", Schema.Literals(["a", "b"]), "b"],
  ["a class", Order, new Order({ id: "7", at: new Date(7) })],
  ["an error", Declined, new Declined({ code: 51, at: new Date(7), amounts: new Map([["EUR", 5n]]) })],
  [
    "keys of prototypes",
    Schema.Record(Schema.String, Schema.Finite),
    JSON.parse("{\"__proto__\":1,\"constructor\":2,\"toString\":3}")
  ],
  ["untyped JSON", Schema.Json, JSON.parse("{\"__proto__\":{\"a\":[1,null,{\"b\":\"\"}]}}")],
  ["a long text", Schema.String, "0123456789".repeat(100_000)]
]

describe("What a step gives survives a crash", () => {
  for (const [name, schema, value] of cases) {
    test(name, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = Checkpoint.step("a", { success: schema }, Effect.as(did("a"), value)).pipe(
          Checkpoint.run({ id: "r" })
        )
        const first = yield* program
        const again = yield* program
        assert.deepStrictEqual(log, ["a"])
        for (const found of [first, again]) {
          // Hashes that were computed before make no difference to Equal, and to assert they do.
          if (!Equal.equals(found, value)) assert.deepStrictEqual(found, value)
          assert.strictEqual(Object.getPrototypeOf(Object(found)), Object.getPrototypeOf(Object(value)))
        }
      }))
  }

  test("errors, with their tag, their fields and their class", () =>
    Effect.gen(function*() {
      const error = new Declined({ code: 51, at: new Date(7), amounts: new Map([["EUR", 2n ** 70n]]), note: "a\0b" })
      const { did, log } = makeLog()
      const program = Checkpoint.step("pay", { error: Declined }, Effect.andThen(did("pay"), Effect.fail(error))).pipe(
        Effect.flip,
        Checkpoint.run({ id: "r" })
      )
      for (let life = 0; life < 3; life++) {
        const found = yield* program
        assert.instanceOf(found, Declined)
        assert.deepStrictEqual(
          [found._tag, found.code, found.at, found.amounts, found.note],
          [error._tag, error.code, error.at, error.amounts, error.note]
        )
      }
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("what cannot be written is an error when it is written, and the run can go on", () =>
    Effect.gen(function*() {
      const loop: Record<string, unknown> = {}
      loop["self"] = loop
      for (
        const [schema, value] of [
          [Schema.Unknown, () => 1],
          [Schema.Unknown, Symbol("s")],
          [Schema.Unknown, loop],
          [Schema.Unknown, new WeakMap()],
          [Schema.Any, 1n],
          [Schema.String, 7],
          [Schema.instanceOf(WeakMap), new WeakMap()]
        ] satisfies ReadonlyArray<readonly [Schema.Codec<unknown, unknown>, unknown]>
      ) {
        yield* Effect.gen(function*() {
          const bad = Checkpoint.step("a", { success: schema }, Effect.succeed(value)).pipe(Checkpoint.run({ id: "r" }))
          const error = yield* Effect.flip(bad)
          assert.isTrue(error._tag === "StepNotEncodable" && error.step === "a" && error.runId === "r")
          assert.strictEqual(yield* statusOf("r"), "failed")
          yield* Checkpoint.step("a", { success: Schema.String }, Effect.succeed("mended")).pipe(
            Checkpoint.run({ id: "r" })
          )
        }).pipe(Effect.provide(emptyStore))
      }
    }))
})

describe("A result that is too large", () => {
  const large = (did: (what: string) => Effect.Effect<string>, bytes: number) =>
    Checkpoint.step("a", { success: Schema.String }, Effect.as(did("a"), "x".repeat(bytes)))

  test("is a typed error before it is tried twice, in this life and the next, until the limit is raised", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = (maxRecordBytes: number) => large(did, 5000).pipe(Checkpoint.run({ id: "r", maxRecordBytes }))
      const error = yield* Effect.flip(program(2048))
      assert.isTrue(error._tag === "RecordTooLarge" && error.step === "a" && error.limit === 2048 && error.bytes > 5000)
      assert.strictEqual((yield* Effect.flip(program(2048)))._tag, "RecordTooLarge")
      assert.strictEqual((yield* Effect.flip(program(4096)))._tag, "RecordTooLarge")
      assert.deepStrictEqual(log, ["a"])
      assert.strictEqual((yield* program(8192)).length, 5000)
      assert.deepStrictEqual(log, ["a", "a"])
    }))

  test("of an at-most-once step is never executed again: with a larger limit it is ambiguous, or reconciled", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const pay = (maxRecordBytes: number, reconcile?: Effect.Effect<Checkpoint.Reconciliation<string>>) =>
        Checkpoint.step(
          "pay",
          {
            success: Schema.String,
            effects: "atMostOnce",
            ...(reconcile === undefined ? {} : { reconcile })
          },
          Effect.as(did("pay"), "x".repeat(5000))
        ).pipe(Checkpoint.run({ id: "r", maxRecordBytes }))
      assert.strictEqual((yield* Effect.flip(pay(2048)))._tag, "RecordTooLarge")
      assert.strictEqual((yield* Effect.flip(pay(2048)))._tag, "RecordTooLarge")
      assert.strictEqual((yield* Effect.flip(pay(8192)))._tag, "AmbiguousStep")
      assert.strictEqual(yield* pay(8192, Effect.succeed(Checkpoint.happened("paid"))), "paid")
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("is measured in bytes of UTF-8", () =>
    Effect.gen(function*() {
      for (const [unit, bytes] of [["a", 1], ["ä", 2], ["☃", 3], ["🦉", 4]] as const) {
        const id = unit
        const program = Checkpoint.step("a", { success: Schema.String }, Effect.succeed(unit.repeat(2000)))
        const error = yield* Effect.flip(
          program.pipe(Checkpoint.run({ id, maxRecordBytes: 1024 })).pipe(
            Effect.andThen(program.pipe(Checkpoint.run({ id: `${id}2`, maxRecordBytes: bytes * 2000 })))
          )
        )
        const size = error._tag === "RecordTooLarge" ? error.bytes : 0
        const empty = Buffer.byteLength(JSON.stringify({ at: 0, _tag: "StepSucceeded", order: [0], value: "" }))
        assert.strictEqual(size, bytes * 2000 + empty)
      }
    }))

  test("that the program handles lets it go on, also on resume", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let stop = true
      const program = large(did, 5000).pipe(
        Effect.catchTag("RecordTooLarge", () => Checkpoint.step("small", { success: Schema.String }, did("small"))),
        Effect.tap(() => stop ? new Stop() : Effect.void),
        Checkpoint.run({ id: "r", maxRecordBytes: 2048 })
      )
      yield* Effect.flip(program)
      stop = false
      assert.strictEqual(yield* program, "small")
      assert.deepStrictEqual(log, ["a", "small"])
    }))

  test("as an input, or a remembered failure, is a typed error or only noted", () =>
    Effect.gen(function*() {
      const input = { text: "x".repeat(5000) }
      const error = yield* Effect.flip(Effect.void.pipe(Checkpoint.run({ id: "r", input, maxRecordBytes: 2048 })))
      assert.isTrue(error._tag === "RecordTooLarge" && error.step === "")
      assert.deepStrictEqual(yield* Checkpoint.list(), [])
      const failing = Checkpoint.step("a", { error: Schema.String }, Effect.fail("x".repeat(5000))).pipe(
        Checkpoint.run({ id: "s", maxRecordBytes: 2048 })
      )
      assert.strictEqual(yield* Effect.flip(failing), "x".repeat(5000))
      const { records } = yield* Checkpoint.inspect("s")
      assert.isTrue(records.some(({ kind, value }) => kind === "StepFailed" && value === undefined))
    }))

  test("in the journal is a typed error when it is read, and is left as it is", () =>
    Effect.gen(function*() {
      const { did } = makeLog()
      yield* large(did, 5000).pipe(Checkpoint.run({ id: "r" }))
      const store = yield* CheckpointStore.CheckpointStore
      const journal = yield* store.read("r")
      const error = yield* Effect.flip(large(did, 5000).pipe(Checkpoint.run({ id: "r", maxRecordBytes: 2048 })))
      assert.isTrue(error._tag === "RecordTooLarge" && error.operation === "read" && error.step === "a")
      assert.deepStrictEqual(yield* store.read("r"), journal)
    }))
})
