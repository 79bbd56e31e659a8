/** A durable program with every kind of step, all of which leave their mark on the world. */
import * as Checkpoint from "effect-resilience/durable/Checkpoint"
import * as Compensation from "effect-resilience/durable/Compensation"
import * as EscalationQueue from "effect-resilience/durable/EscalationQueue"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import type { Event } from "./Event.ts"
import { act, find, type Where, type World } from "./World.ts"

class NoStock extends Schema.TaggedError<NoStock>()("NoStock", { item: Schema.String }) {}

const Plan = Schema.Struct({ titles: Schema.Array(Schema.String), turns: Schema.Finite })
const Turn = Schema.Struct({ said: Schema.String, last: Schema.Boolean })

/** What the run is about. */
export const input = { topic: "tides" }

const plan: typeof Plan.Type = { titles: ["moon", "sun", "wind"], turns: 4 }

// Longer than a page of memory, so that a kill finds something of it written and something not.
const length = 20_000

export const digest = (value: unknown): string =>
  createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16)

/** A step's id as the journal has it. */
const idOf = (name: string) => Effect.map(Checkpoint.current, ({ scope }) => scope === "" ? name : `${scope}/${name}`)

/** The id of the step that asks, also in its reconcile. */
const ownId = Effect.map(Checkpoint.current, ({ scope }) => scope.replace(/\/~reconcile(#\d+)?$/, ""))

/** The program that a run works. Its result is the same whatever the run went through. */
export const program = (world: World) => {
  const say = (event: Event) => Effect.sync(() => world.say(event))

  /** Says that the program was given something, which must hold from now on. */
  const given = (id: string) => <A, E, R>(step: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    step.pipe(
      Effect.tap((value) => say({ _tag: "Given", step: id, as: "result", digest: digest(value) })),
      Effect.tapError((error) =>
        error instanceof NoStock
          ? say({ _tag: "Given", step: id, as: "failure", digest: digest(error.item) })
          : Effect.void
      )
    )

  const mark = (effects: "idempotent" | "atMostOnce", id: string, result: string, where: Where) =>
    Effect.flatMap(Checkpoint.idempotencyKey, (key) => act(world, where, { step: id, effects, key, result }))

  /** A step that may be repeated until its result is known. */
  const idempotent = <S extends Schema.Codec<unknown, unknown>>(
    name: string,
    success: S,
    value: S["Type"],
    where: Where = "file"
  ) =>
    Effect.flatMap(
      idOf(name),
      (id) =>
        Checkpoint.step(
          name.replace(/#\d+$/, ""),
          { success },
          Effect.as(mark("idempotent", id, digest(value), where), value)
        )
          .pipe(given(id))
    )

  /** Asks the world whether a step has happened. */
  const look = (id: string, where: Where) =>
    Effect.tap(
      Effect.map(
        find(world, where, id),
        Option.match({
          onNone: () => Checkpoint.notHappened,
          onSome: Checkpoint.happened
        })
      ),
      (found) => say({ _tag: "Reconciled", step: id, happened: found._tag === "Happened" })
    )

  const receiptOf = (id: string) => `receipt of ${id}`

  /** How a step is taken that must not happen twice, and finds in the world whether it has happened. */
  const onceAs = (id: string, where: Where) => ({
    options: { success: Schema.String, effects: "atMostOnce", reconcile: look(id, where) } as const,
    execute: Effect.as(mark("atMostOnce", id, receiptOf(id), where), receiptOf(id))
  })

  const once = (name: string, where: Where) =>
    Effect.flatMap(idOf(name), (id) => {
      const { execute, options } = onceAs(id, where)
      return Checkpoint.step(name, options, execute).pipe(given(id))
    })

  const section = (title: string) =>
    Effect.gen(function*() {
      const draft = yield* idempotent("draft", Schema.String, title.repeat(length))
      const review = yield* Effect.flatMap(idOf("review"), (id) =>
        Checkpoint.step(
          "review",
          { success: Schema.String },
          Effect.gen(function*() {
            const note = yield* idempotent("note", Schema.String, `about the ${title}`)
            yield* mark("idempotent", id, note, "file")
            return `${note}, reviewed`
          })
        ).pipe(given(id)))
      return { title, draft: digest(draft), review }
    })

  // Another one in every run, and the same in every life of one.
  const ticket = given("uuid")(Checkpoint.uuid)

  const stock = Checkpoint.step(
    "stock",
    { error: NoStock },
    Effect.delay(mark("idempotent", "stock", "none", "file"), world.linger).pipe(
      Effect.andThen(new NoStock({ item: "paper" }))
    )
  ).pipe(
    given("stock"),
    Effect.as("in stock"),
    Effect.catchTag("NoStock", ({ item }) => Effect.succeed(`no ${item}`))
  )

  const conversation = Effect.gen(function*() {
    const said: Array<string> = []
    while (true) {
      const n = said.length + 1
      const turn: typeof Turn.Type = { said: `turn ${n} after ${said.join(", ")}`, last: n === plan.turns }
      const { last, ...rest } = yield* idempotent(n === 1 ? "turn" : `turn#${n}`, Turn, turn)
      said.push(rest.said)
      if (last) return said
    }
  })

  const cancel = Compensation.make(
    "cancel",
    {
      input: Schema.String,
      effects: "atMostOnce",
      reconcile: () => Effect.flatMap(ownId, (id) => look(id, "file"))
    },
    (receipt) => Effect.flatMap(ownId, (id) => mark("atMostOnce", id, `${receipt} is void`, "file"))
  )

  const book = (name: string) =>
    Effect.flatMap(idOf(name), (id) => {
      const { execute, options } = onceAs(id, "file")
      return Checkpoint.step(name, { ...options, undo: cancel }, execute).pipe(given(id))
    })

  // It fails for good when all is booked, so that all has to be cancelled, the last first.
  const trip = book("seat").pipe(
    Effect.andThen(book("bed")),
    Effect.andThen(new NoStock({ item: "a guide" })),
    Compensation.saga({ name: "trip", undo: [cancel], error: NoStock }),
    Effect.catchTag("NoStock", ({ item }) => Effect.succeed(`no ${item}`)),
    Effect.provide(EscalationQueue.layerMemory)
  )

  return Effect.gen(function*() {
    const { titles } = yield* idempotent("plan", Plan, plan)
    yield* ticket
    const charged = yield* once("charge", "file")
    const sections = yield* Checkpoint.forEach(titles, section, {
      name: "section",
      key: (title) => title,
      concurrency: 2
    })
    const supplies = yield* Checkpoint.all({ paper: once("order", "file"), ink: once("order", "table") }, {
      name: "supplies",
      concurrency: 2
    })
    const missing = yield* stock
    const turns = yield* conversation
    const cancelled = yield* trip
    yield* idempotent("notify", Schema.String, "sent", "table")
    const published = yield* once("publish", "table")
    return { charged, sections, supplies, missing, turns, cancelled, published }
  })
}
