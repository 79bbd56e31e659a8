/** Harbor's own records: customers, orders, refunds and replies, in a small SQLite database that the demo creates. */
import { Context, Effect, Layer, Option, Schema } from "effect"
import { Fault } from "effect-resilience"
import { SqlClient, type SqlError, SqlSchema } from "effect/sql"

export class Customer extends Schema.Class<Customer>("support-desk/Customer")({
  email: Schema.String,
  name: Schema.String,
  plan: Schema.String,
  since: Schema.String
}) {}

export class Order extends Schema.Class<Order>("support-desk/Order")({
  id: Schema.String,
  email: Schema.String,
  item: Schema.String,
  amountCents: Schema.Int,
  charges: Schema.Int
}) {}

export class Refund extends Schema.Class<Refund>("support-desk/Refund")({
  key: Schema.String,
  orderId: Schema.String,
  amountCents: Schema.Int,
  reason: Schema.String
}) {}

export class Reply extends Schema.Class<Reply>("support-desk/Reply")({
  ticketId: Schema.String,
  category: Schema.String,
  language: Schema.String,
  body: Schema.String
}) {}

/** The shop refuses a refund: a rule of the business, which no repetition changes. */
export class RefundRefused extends Schema.TaggedError<RefundRefused>("support-desk/RefundRefused")("RefundRefused", {
  orderId: Schema.String,
  problem: Schema.String
}) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `no refund for ${this.orderId}: ${this.problem}`
  }
}

/** The shop's database did not answer. What a refund did by then is not known; the rest may be asked again. */
export class ShopUnavailable extends Schema.TaggedError<ShopUnavailable>("support-desk/ShopUnavailable")(
  "ShopUnavailable",
  { operation: Schema.String, problem: Schema.String }
) {
  get [Fault.verdictOf]() {
    return this.operation === "refund" ? Fault.ambiguous : Fault.transient
  }
  override get message() {
    return `the shop could not ${this.operation}: ${this.problem}`
  }
}

const customers: ReadonlyArray<readonly [email: string, name: string, plan: string, since: string]> = [
  ["maria@nordlicht.example", "Maria Lindqvist", "Team", "2023-04-11"],
  ["tom@okaforbikes.example", "Tom Okafor", "Business", "2021-01-30"],
  ["jonas.weber@weberhaus.example", "Jonas Weber", "Team", "2024-02-01"],
  ["priya@kettleandkin.example", "Priya Raman", "Starter", "2025-09-12"],
  ["carl@brandtprint.example", "Carl Brandt", "Business", "2020-06-03"],
  ["aiko@tanakatea.example", "Aiko Tanaka", "Starter", "2024-11-20"],
  ["lucia@floresfernandez.example", "Lucía Fernández", "Team", "2022-08-17"],
  ["sara@nilssonoptik.example", "Sara Nilsson", "Business", "2019-10-25"],
  ["dmitri@volkovaudio.example", "Dmitri Volkov", "Starter", "2023-12-02"],
  ["isabelle@moreaudeco.example", "Isabelle Moreau", "Team", "2024-05-06"],
  ["will@hartgarden.example", "William Hart", "Team", "2026-01-15"],
  ["nadia@haddadjewels.example", "Nadia Haddad", "Business", "2026-11-01"],
  ["liam@doylesurf.example", "Liam Doyle", "Team", "2022-03-28"],
  ["anna@kowalskaceramics.example", "Anna Kowalska", "Starter", "2026-10-02"],
  ["felix@bauerimkerei.example", "Felix Bauer", "Starter", "2021-07-19"],
  ["julia@santosplants.example", "Julia Santos", "Starter", "2025-03-03"],
  ["victor@langinstruments.example", "Victor Lang", "Business", "2020-02-14"],
  ["helen@mosspets.example", "Helen Moss", "Team", "2024-08-08"],
  ["arjun@mehtatextiles.example", "Arjun Mehta", "Business", "2025-05-21"]
]

const orders: ReadonlyArray<readonly [id: string, email: string, item: string, amountCents: number, charges: number]> =
  [
    ["HB-1042", "maria@nordlicht.example", "Team plan, October", 4900, 2],
    ["HB-1051", "priya@kettleandkin.example", "Analytics add-on", 2900, 1],
    ["HB-1063", "lucia@floresfernandez.example", "Team plan, November", 4900, 2],
    ["HB-1077", "jonas.weber@weberhaus.example", "Team plan, October", 4900, 1],
    ["HB-1088", "sara@nilssonoptik.example", "Business plan, one year", 58800, 1],
    ["HB-1101", "dmitri@volkovaudio.example", "Starter plan, November", 1900, 1],
    ["HB-1110", "isabelle@moreaudeco.example", "Analytics add-on", 2900, 1],
    ["HB-1123", "will@hartgarden.example", "Team plan, November", 4900, 1],
    ["HB-1130", "nadia@haddadjewels.example", "Business plan, November", 14700, 1],
    ["HB-1139", "liam@doylesurf.example", "Team plan, October", 4900, 1],
    ["HB-1147", "anna@kowalskaceramics.example", "Starter plan, October", 1900, 1],
    ["HB-1160", "felix@bauerimkerei.example", "Starter plan, November", 1900, 2],
    ["HB-1171", "julia@santosplants.example", "Domain, one year", 1200, 1],
    ["HB-1175", "victor@langinstruments.example", "20 label printers", 124000, 1],
    ["HB-1183", "helen@mosspets.example", "Team plan, November", 4900, 2],
    ["HB-1190", "arjun@mehtatextiles.example", "Business plan, November", 14700, 1]
  ]

const unavailable = (operation: string) => (error: SqlError.SqlError | Schema.SchemaError) =>
  new ShopUnavailable({ operation, problem: error.message })

/** What the desk may ask of the shop. */
export class Shop extends Context.Service<Shop, {
  readonly customer: (email: string) => Effect.Effect<Customer | undefined, ShopUnavailable>
  readonly order: (id: string) => Effect.Effect<Order | undefined, ShopUnavailable>
  /** Pays money back. Not idempotent, as few payment providers are: asked twice, it pays twice. */
  readonly refund: (refund: Refund) => Effect.Effect<void, RefundRefused | ShopUnavailable>
  /** The refunds paid under a key: how one finds out whether a refund happened. */
  readonly refundsOf: (key: string) => Effect.Effect<ReadonlyArray<Refund>, ShopUnavailable>
  readonly saveReply: (reply: Reply) => Effect.Effect<void, ShopUnavailable>
  readonly refunds: Effect.Effect<ReadonlyArray<Refund>, ShopUnavailable>
  readonly replies: Effect.Effect<ReadonlyArray<Reply>, ShopUnavailable>
}>()("support-desk/Shop") {}

export const make = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql.withTransaction(Effect.gen(function*() {
    yield* sql`CREATE TABLE IF NOT EXISTS customers (email TEXT PRIMARY KEY, name TEXT NOT NULL, plan TEXT NOT NULL, since TEXT NOT NULL)`
    yield* sql`CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, email TEXT NOT NULL, item TEXT NOT NULL, amountCents INTEGER NOT NULL, charges INTEGER NOT NULL)`
    yield* sql`CREATE TABLE IF NOT EXISTS refunds (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, orderId TEXT NOT NULL, amountCents INTEGER NOT NULL, reason TEXT NOT NULL)`
    yield* sql`CREATE TABLE IF NOT EXISTS replies (ticketId TEXT PRIMARY KEY, category TEXT NOT NULL, language TEXT NOT NULL, body TEXT NOT NULL)`
    for (const [email, name, plan, since] of customers) {
      yield* sql`INSERT INTO customers ${sql.insert({ email, name, plan, since })} ON CONFLICT DO NOTHING`
    }
    for (const [id, email, item, amountCents, charges] of orders) {
      yield* sql`INSERT INTO orders ${sql.insert({ id, email, item, amountCents, charges })} ON CONFLICT DO NOTHING`
    }
  }))

  const customer = SqlSchema.findOneOption({
    Request: Schema.String,
    Result: Customer,
    execute: (email) => sql`SELECT * FROM customers WHERE email = ${email}`
  })
  const order = SqlSchema.findOneOption({
    Request: Schema.String,
    Result: Order,
    execute: (id) => sql`SELECT * FROM orders WHERE id = ${id}`
  })
  const refundsWhere = (column: "key" | "orderId") =>
    SqlSchema.findAll({
      Request: Schema.String,
      Result: Refund,
      execute: (value) =>
        sql`SELECT key, orderId, amountCents, reason FROM refunds WHERE ${sql(column)} = ${value} ORDER BY id`
    })
  const refundsOf = refundsWhere("key")
  const refundsOfOrder = refundsWhere("orderId")
  const all = <S extends Schema.Codec<unknown, unknown>>(schema: S, table: string, by: string) =>
    SqlSchema.findAll({
      Request: Schema.Void,
      Result: schema,
      execute: () => sql`SELECT * FROM ${sql(table)} ORDER BY ${sql(by)}`
    })(undefined).pipe(Effect.mapError(unavailable("list")))

  return Shop.of({
    customer: (email) =>
      customer(email).pipe(Effect.map(Option.getOrUndefined), Effect.mapError(unavailable("look up"))),
    order: (id) => order(id).pipe(Effect.map(Option.getOrUndefined), Effect.mapError(unavailable("look up"))),
    refund: (refund) =>
      sql.withTransaction(Effect.gen(function*() {
        const found = yield* order(refund.orderId)
        if (found._tag === "None") {
          return yield* new RefundRefused({ orderId: refund.orderId, problem: "there is no such order" })
        }
        const paid = found.value.amountCents * found.value.charges
        const returned = (yield* refundsOfOrder(refund.orderId)).reduce((sum, earlier) => sum + earlier.amountCents, 0)
        if (refund.amountCents > paid - returned) {
          return yield* new RefundRefused({
            orderId: refund.orderId,
            problem: `${refund.amountCents} cents asked, ${paid} paid and ${returned} returned already`
          })
        }
        const { amountCents, key, orderId, reason } = refund
        yield* sql`INSERT INTO refunds ${sql.insert({ key, orderId, amountCents, reason })}`
      })).pipe(Effect.catchTag(["SqlError", "SchemaError"], (error) => Effect.fail(unavailable("refund")(error)))),
    refundsOf: (key) => Effect.mapError(refundsOf(key), unavailable("look up")),
    saveReply: ({ body, category, language, ticketId }) =>
      sql`INSERT OR REPLACE INTO replies ${sql.insert({ ticketId, category, language, body })}`.pipe(
        Effect.asVoid,
        Effect.mapError(unavailable("save a reply"))
      ),
    refunds: all(Refund, "refunds", "id"),
    replies: all(Reply, "replies", "ticketId")
  })
})

export const layer = Layer.effect(Shop, make)
