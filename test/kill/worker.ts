/**
 * One life of a run: it works the program until it is done, or killed.
 *
 *     node --conditions=effect-resilience-source test/kill/worker.ts --program agent --store sqlite --place /tmp/a \
 *       --log /tmp/a/log --run r --life 1 --kill-at 12
 */
// Its modules are imported one by one: loading all of Effect would be half of a short life.
import * as Checkpoint from "effect-resilience/durable/Checkpoint"
import { CheckpointStore, CheckpointStoreError } from "effect-resilience/durable/CheckpointStore"
import { EscalationQueue } from "effect-resilience/durable/EscalationQueue"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as References from "effect/References"
import * as Schema from "effect/Schema"
import { parseArgs } from "node:util"
import { aloud, type Event } from "./Event.ts"
import * as faults from "./faults.ts"
import * as Points from "./Points.ts"
import { programs } from "./programs.ts"
import { stores } from "./stores.ts"
import * as World from "./World.ts"

const Options = Schema.Struct({
  "program": Schema.String,
  "store": Schema.String,
  "place": Schema.String,
  "log": Schema.String,
  "schema": Schema.optionalKey(Schema.String),
  "run": Schema.String,
  "life": Schema.FiniteFromString,
  "lease": Schema.FiniteFromString,
  "max-crashes": Schema.optionalKey(Schema.FiniteFromString),
  "linger": Schema.optionalKey(Schema.FiniteFromString),
  "kill-at": Schema.optionalKey(Schema.String),
  "pause-at": Schema.optionalKey(Schema.String),
  "fault": Schema.optionalKey(faults.Fault)
})

const { values } = parseArgs({
  options: {
    "program": { type: "string", default: "durable" },
    "store": { type: "string" },
    "place": { type: "string" },
    "log": { type: "string" },
    "schema": { type: "string" },
    "run": { type: "string" },
    "life": { type: "string" },
    "lease": { type: "string" },
    "max-crashes": { type: "string" },
    "linger": { type: "string" },
    "kill-at": { type: "string" },
    "pause-at": { type: "string" },
    "fault": { type: "string" }
  }
})

const stringOf = (value: unknown, name: string): string =>
  Predicate.hasProperty(value, name) && typeof value[name] === "string" ? value[name] : ""

const say = (event: Event) => Effect.sync(() => aloud(event))

const maxHindered = 20

const isUnavailable = (error: unknown): error is CheckpointStoreError =>
  error instanceof CheckpointStoreError && error.reason._tag === "Unavailable"

const main = Effect.gen(function*() {
  const options = yield* Schema.decodeUnknownEffect(Options)(values)
  const { fault, life, linger = 0, log, place, run, schema } = options
  const points = Points.make({ kill: options["kill-at"], pause: options["pause-at"] }, aloud)
  const file = World.file(log)
  const table = schema === undefined
    ? file
    : yield* Effect.flatMap(Effect.promise(() => import("./PostgresLog.ts")), ({ make }) => make(schema, run))
  const store = stores[options.store]
  if (store === undefined) return yield* Effect.die(`no store is named ${options.store}`)
  const program = programs[options.program]
  if (program === undefined) return yield* Effect.die(`no program is named ${options.program}`)
  const layer = yield* Effect.promise(() => program.layer(store, place, points))
  const loaded = yield* Effect.promise(program.load)

  const world: World.World = { file, table, life, linger, points, say: aloud }
  const work = faults.inProgram(fault, loaded.run(world, fault)).pipe(
    Checkpoint.run({ id: run, input: loaded.input, lease: options.lease, maxCrashes: options["max-crashes"] }),
    Effect.updateService(CheckpointStore, (store) => Points.around(points, faults.inStore(fault, store)))
  )
  const people = loaded.answer(world, run).pipe(
    Effect.updateService(EscalationQueue, (queue) => faults.inQueue(fault, queue))
  )
  let hindered = 0
  const goOn = (error: unknown): typeof work => {
    // Whoever finds the run taken waits until its lease is over, and no longer.
    if (error instanceof Checkpoint.RunLeased) {
      return say({ _tag: "Waiting", holder: error.holder, millis: Duration.toMillis(error.remaining) }).pipe(
        Effect.andThen(Effect.sleep(Duration.sum(error.remaining, Duration.millis(5)))),
        Effect.andThen(Effect.suspend(() => patient))
      )
    }
    // Who was paused has to say what it meets then.
    if (isUnavailable(error) && options["pause-at"] === undefined && hindered++ < maxHindered) {
      return say({ _tag: "Hindered", message: error.message }).pipe(
        Effect.andThen(Effect.sleep("100 millis")),
        Effect.andThen(Effect.suspend(() => patient))
      )
    }
    if (!(error instanceof Checkpoint.RunSuspended)) return Effect.fail(error)
    return say({ _tag: "Suspended" }).pipe(
      Effect.andThen(people),
      Effect.andThen(Effect.suspend(() => patient))
    )
  }
  const patient: typeof work = work.pipe(Effect.catch(goOn))
  const result = yield* Effect.provide(patient, layer)
  yield* say({ _tag: "Done", result: JSON.stringify(result) })
}).pipe(
  Effect.scoped,
  // What it says is heard line by line.
  Effect.provideService(References.MinimumLogLevel, "None"),
  Effect.catch((error) =>
    Effect.sync(() => {
      process.exitCode = 1
      aloud({
        _tag: "Failed",
        tag: stringOf(error, "_tag"),
        reason: Predicate.hasProperty(error, "reason") ? stringOf(error.reason, "_tag") : "",
        message: stringOf(error, "message")
      })
    })
  )
)

await Effect.runPromise(main)
