/**
 * Executes a call once for the same arguments, and remembers its result.
 *
 * **When to use**
 *
 * Use it around what must not happen twice for the same request, such as a payment or a mail, whoever asks for it: a
 * retry, another run, a duplicate at the same time. Where one run alone may ask, a `Checkpoint.step` is enough.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Fault from "../Fault.ts"
import { canonicalJson, NotJson } from "../internal/canonicalJson.ts"
import * as config from "../internal/config.ts"
import { hasRedacted } from "../internal/hasRedacted.ts"
import * as leaving from "../internal/leaving.ts"
import { LruMap } from "../internal/lruMap.ts"
import { sha256 } from "../internal/sha256.ts"
import * as Telemetry from "../Telemetry.ts"
import * as Flights from "./internal/idempotencyFlights.ts"

export {
  /**
   * Failure of arguments that have no canonical JSON, naming the place.
   *
   * @category errors
   * @since 0.1.0
   */
  NotJson
}

/**
 * Failure of the store that keeps the results.
 *
 * **Details**
 *
 * With `operation: "record"` the call has been executed and its result could not be kept: the verdict is `Ambiguous`,
 * so that nothing repeats it blindly. With every other operation nothing was executed: an `Unavailable` store is
 * `Transient`, every other reason `Permanent`.
 *
 * - `Unavailable`: the store did not answer, or cannot now.
 * - `Rejected`: it refused, or the result is not what its schema says.
 * - `InTransaction`: the call is inside a transaction of its caller, which could take the record back later. Call
 *   before or after the transaction.
 * - `SchemaTooNew`: the tables are of a newer release. Update this one.
 * - `Redacted`: the schema of the result or of the failure holds a `Redacted`, which the record would show in clear.
 *   Leave the secret out of the result.
 *
 * @category errors
 * @since 0.1.0
 */
export class IdempotencyStoreError
  extends Schema.TaggedError<IdempotencyStoreError>("effect-resilience/durable/Idempotency/IdempotencyStoreError")(
    "IdempotencyStoreError",
    {
      operation: Schema.Literals(["open", "lookup", "record", "clear"]),
      scope: Schema.String,
      reason: Schema.Literals(["Unavailable", "Rejected", "InTransaction", "SchemaTooNew", "Redacted"]),
      cause: Schema.Defect()
    }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Ambiguous" | "Transient" | "Permanent" }> {
    if (this.operation === "record") return Fault.ambiguous
    return this.reason === "Unavailable" ? Fault.transient : Fault.permanent
  }
  override get message() {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return this.operation === "record"
      ? `Idempotency: a call in scope "${this.scope}" was executed, and its result could not be recorded (${cause}); ` +
        `find out whether it took effect before calling it again`
      : `Idempotency: the store failed to ${this.operation} in scope "${this.scope}", nothing was executed: ${cause}`
  }
}

/**
 * Failure of a recorded result that the schema does not accept.
 *
 * **Details**
 *
 * The call is not executed again. Read the record with the schema that wrote it, or `clear` the scope.
 *
 * @category errors
 * @since 0.1.0
 */
export class IdempotencyCorrupt
  extends Schema.TaggedError<IdempotencyCorrupt>("effect-resilience/durable/Idempotency/IdempotencyCorrupt")(
    "IdempotencyCorrupt",
    { scope: Schema.String, tool: Schema.String, key: Schema.String, issue: Schema.String }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `Idempotency: the recorded result of ${this.tool} in scope "${this.scope}" (key ${this.key}) does not ` +
      `decode: ${this.issue}; it was not executed again, read it with the schema that wrote it or clear the scope`
  }
}

/**
 * What {@link once} can fail with besides the failures of the effect.
 *
 * @category errors
 * @since 0.1.0
 */
export type OnceError = NotJson | IdempotencyStoreError | IdempotencyCorrupt

/**
 * Options of {@link once}.
 *
 * **Details**
 *
 * - `scope`: within what the call is the same call: a run, an agent, a tenant.
 * - `tool`, `args`: what is called. The order of keys and the spelling of numbers do not matter; no `args` is a call
 *   without any.
 * - `success`: schema of the result, which is recorded.
 * - `error`: schema of the failures to remember. Default: none. A failure that it accepts is recorded and answered to
 *   later calls; any other failure, a defect and an interruption are not remembered, and the next call executes again.
 *
 * @category models
 * @since 0.1.0
 */
export interface OnceOptions<Success extends Schema.Constraint, Failure extends Schema.Constraint = Schema.Never> {
  readonly scope: string
  readonly tool: string
  readonly args?: unknown
  readonly success: Success
  readonly error?: Failure | undefined
}

/**
 * The services that the schemas of {@link OnceOptions} need.
 *
 * @category models
 * @since 0.1.0
 */
export type CodecServices<S extends Schema.Constraint> = S["DecodingServices"] | S["EncodingServices"]

/**
 * Service that remembers the results of calls.
 *
 * @category services
 * @since 0.1.0
 */
export class Idempotency extends Context.Service<Idempotency, {
  /** See {@link once}. */
  readonly once: <Success extends Schema.Constraint, E, R, Failure extends Schema.Constraint = Schema.Never>(
    options: OnceOptions<Success, Failure>,
    effect: Effect.Effect<Success["Type"], E, R>
  ) => Effect.Effect<
    Success["Type"],
    E | Failure["Type"] | OnceError,
    R | CodecServices<Success> | CodecServices<Failure>
  >
  /**
   * Forgets all results of a scope. A call that is under way is not disturbed, and is remembered when it ends.
   */
  readonly clear: (scope: string) => Effect.Effect<void, IdempotencyStoreError>
}>()("effect-resilience/durable/Idempotency/Idempotency") {}

/**
 * A recorded outcome, as a {@link Store} keeps it. Times are in milliseconds since the epoch.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly outcome: string
  readonly recordedAt: number
  readonly expiresAt: number
}

/**
 * What keeps the outcomes: the contract to implement for another database.
 *
 * **Details**
 *
 * `put` keeps the entry that is there already, unless that one has expired when the new one is recorded, and returns
 * the one kept, in one atomic step: of several processes that executed the same call, all answer the outcome of the
 * first. `get` may return expired entries.
 *
 * @category models
 * @since 0.1.0
 */
export interface Store {
  readonly get: (scope: string, key: string) => Effect.Effect<Entry | undefined, IdempotencyStoreError>
  readonly put: (scope: string, key: string, entry: Entry) => Effect.Effect<Entry, IdempotencyStoreError>
  readonly clear: (scope: string) => Effect.Effect<void, IdempotencyStoreError>
}

/**
 * Computes the key of a call: the SHA-256, in hex, of the canonical JSON (RFC 8785) of tool and arguments.
 *
 * **Example** (Spelling the same arguments in two ways)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Idempotency } from "effect-resilience"
 *
 * const one = await Effect.runPromise(Idempotency.key("send", { to: "ann", amount: 10 }))
 * const other = await Effect.runPromise(Idempotency.key("send", { amount: 1e1, to: "ann" }))
 * one === other // => true
 * ```
 *
 * @category keys
 * @since 0.1.0
 */
export const key = (tool: string, args?: unknown): Effect.Effect<string, NotJson> =>
  Effect.fromResult(
    Result.flatMap(canonicalJson(tool), (tool) =>
      args === undefined
        ? Result.succeed(sha256(`[${tool}]`))
        : Result.map(canonicalJson(args), (args) => sha256(`[${tool},${args}]`)))
  )

const silent = (operation: IdempotencyStoreError["operation"], scope: string) =>
  new IdempotencyStoreError({
    operation,
    scope,
    reason: "Unavailable",
    cause: new Error("the store did not answer")
  })

// Effect's `Persistence` is not used: its `set` overwrites (the first of two processes has to win), it can be cleared
// by store and not by scope, and it records every failure, defects included.
const Outcome = Schema.fromJsonString(Schema.TaggedUnion({
  Success: { value: Schema.Json },
  Failure: { error: Schema.Json }
}))
const encodeOutcome = Schema.encodeEffect(Outcome)
const decodeOutcome = Schema.decodeUnknownEffect(Outcome)

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `timeToLive`: how long a result is remembered. Default: 30 days; `Duration.infinity` keeps it for ever.
 * - `storeTimeout`: how long the store may take for an answer, to a lookup, a record or a `clear`; then it is `Unavailable`.
 *   Default: 30 seconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly timeToLive?: Duration.Input | undefined
  readonly storeTimeout?: Duration.Input | undefined
}

/**
 * Creates an `Idempotency` over a store. Executions under way are interrupted when the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options: Options & { readonly store: Store }
): Effect.fn.Return<Idempotency["Service"], never, Scope.Scope> {
  const { store } = options
  const timeToLive = Duration.toMillis(
    config.duration("Idempotency", "timeToLive", options.timeToLive ?? Flights.defaults.timeToLive, {
      minimum: "1 millis",
      infinite: true
    })
  )
  const storeTimeout = config.duration(
    "Idempotency",
    "storeTimeout",
    options.storeTimeout ?? Flights.defaults.storeTimeout,
    {
      minimum: "1 millis"
    }
  )
  const bounded = (operation: "lookup" | "record" | "clear", scope: string) =>
    leaving.timeoutOrElse({ duration: storeTimeout, orElse: () => Effect.fail(silent(operation, scope)) })
  const flights = Flights.make(yield* Effect.scope)

  const once = Effect.fnUntraced(function*<
    Success extends Schema.Constraint,
    E,
    R,
    Failure extends Schema.Constraint = Schema.Never
  >(options: OnceOptions<Success, Failure>, effect: Effect.Effect<Success["Type"], E, R>) {
    const { error: failure, scope, success, tool } = options
    if (hasRedacted(success) || (failure !== undefined && hasRedacted(failure))) {
      const cause = new Error(`the schema of ${tool} holds a Redacted value, which the record would show in clear`)
      return yield* new IdempotencyStoreError({ operation: "lookup", scope, reason: "Redacted", cause })
    }
    const hash = yield* key(tool, options.args)
    const unrecordable = (cause: unknown) =>
      new IdempotencyStoreError({ operation: "record", scope, reason: "Rejected", cause })

    const outcomeOf = (exit: Exit.Exit<Success["Type"], E>) => {
      if (Exit.isSuccess(exit)) {
        return Schema.encodeUnknownEffect(Schema.toCodecJson(success))(exit.value).pipe(
          Effect.flatMap((value) => encodeOutcome({ _tag: "Success", value })),
          Effect.mapError(unrecordable)
        )
      }
      const failed = Cause.findErrorOption(exit.cause)
      if (failure === undefined || failed._tag === "None" || exit.cause.reasons.length > 1) {
        return Effect.failCause(exit.cause)
      }
      return Schema.encodeUnknownEffect(Schema.toCodecJson(failure))(failed.value).pipe(
        Effect.flatMap((error) => encodeOutcome({ _tag: "Failure", error })),
        Effect.catch(() => Effect.failCause(exit.cause))
      )
    }

    const work = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const found = yield* restore(bounded("lookup", scope)(store.get(scope, hash)))
        if (found !== undefined && found.expiresAt > (yield* Clock.currentTimeMillis)) {
          return { outcome: found.outcome, executed: false }
        }
        // What has happened is recorded even if nobody waits for it any more.
        const exit = yield* Effect.exit(restore(effect))
        const outcome = yield* outcomeOf(exit)
        const recordedAt = yield* Clock.currentTimeMillis
        const expiresAt = Math.min(recordedAt + timeToLive, Number.MAX_SAFE_INTEGER)
        const kept = yield* bounded("record", scope)(store.put(scope, hash, { outcome, recordedAt, expiresAt }))
        return { outcome: kept.outcome, executed: true }
      })
    )

    const { joined, value: answer } = yield* flights.run(`${hash} ${scope}`, work)
    if (joined || !answer.executed) yield* Telemetry.emit(() => ({ _tag: "IdempotencyHit", key: hash, joined }))

    const corrupt = (issue: string) => new IdempotencyCorrupt({ scope, tool, key: hash, issue })
    const unreadable = (error: Schema.SchemaError) => corrupt(error.message)
    const outcome = yield* Effect.mapError(decodeOutcome(answer.outcome), unreadable)
    // Every caller reads the record, the one that executed it too: a result that does not survive its own schema is
    // found on the first day and not after a restart.
    if (outcome._tag === "Success") {
      return yield* Effect.mapError(
        Schema.decodeUnknownEffect(Schema.toCodecJson(success))(outcome.value),
        unreadable
      )
    }
    if (failure === undefined) return yield* corrupt("it is a failure, and no error schema is given to read it")
    return yield* Effect.flatMap(
      Effect.mapError(Schema.decodeUnknownEffect(Schema.toCodecJson(failure))(outcome.error), unreadable),
      (error: Failure["Type"]) => Effect.fail(error)
    )
  })

  return Idempotency.of({ once, clear: (scope) => bounded("clear", scope)(store.clear(scope)) })
})

/**
 * Creates a store in memory.
 *
 * **Details**
 *
 * `capacity` is how many results it holds over all scopes. Default: 10 000. Beyond that the one that was used least
 * recently is forgotten, and its call would be executed again.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStoreMemory = (options: { readonly capacity?: number | undefined } = {}): Effect.Effect<Store> => {
  const capacity = config.integer("Idempotency", "capacity", options.capacity ?? Flights.defaults.capacity, 1)
  return Effect.sync(() => {
    const entries = new LruMap<{ readonly scope: string; readonly entry: Entry }>()
    const idOf = (scope: string, key: string) => `${key} ${scope}`
    return {
      get: (scope, key) => Effect.sync(() => entries.use(idOf(scope, key))?.entry),
      put: (scope, key, entry) =>
        Effect.sync(() => {
          const id = idOf(scope, key)
          const found = entries.peek(id)
          if (found !== undefined && found.entry.expiresAt > entry.recordedAt) return found.entry
          entries.set(id, { scope, entry })
          entries.shrink(capacity)
          return entry
        }),
      clear: (scope) =>
        Effect.sync(() => {
          for (const [id, held] of entries.entries()) if (held.scope === scope) entries.delete(id)
        })
    }
  })
}

/**
 * Provides an `Idempotency` that remembers 10 000 results for 30 days in memory.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<Idempotency> = Layer.effect(
  Idempotency,
  Effect.flatMap(makeStoreMemory(), (store) => make({ store }))
)

/**
 * Executes an effect once for the same scope, tool and arguments, and answers every later call with its result.
 *
 * **When to use**
 *
 * Use it around a tool that must not run twice when a model asks for the same call again, or when two parts of a
 * program make the same call at the same time.
 *
 * **Details**
 *
 * - Callers that come while the call is executed join that execution, and share it: it is interrupted only when no
 *   caller is left, and not when the one that happened to start it is. It runs with the services of that first caller;
 *   what it acquires in that caller's `Scope` lives as long as that scope.
 * - A result is answered only once it is recorded, and an execution that has ended is recorded even if all its callers
 *   are gone.
 * - An interruption that comes during an uninterruptible part of the effect strikes right after it, before its result
 *   can be seen. What must not be cut off is protected with `Effect.uninterruptible` around `once`, not inside.
 * - Calls inside one another's executions that would wait for each other for ever die instead.
 * - Several processes over one store may both execute; the outcome recorded first is the one that all answer.
 * - A crash between executing and recording leaves no trace, and the next call executes again. Where that is not
 *   good enough, make it a `Checkpoint.step` with `effects: "atMostOnce"`, which writes its intent first.
 *
 * Fails with the effect's own failures, with those that `error` decodes, and with
 * - {@link NotJson}: the arguments have no canonical JSON; nothing was executed.
 * - {@link IdempotencyStoreError}: see its `operation` and `reason`.
 * - {@link IdempotencyCorrupt}: the recorded result does not decode; nothing was executed.
 *
 * **Example** (Executing a tool once)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Idempotency } from "effect-resilience"
 *
 * let sent = 0
 * const send = (args: { readonly to: string; readonly amount: number }) =>
 *   Effect.sync(() => ++sent).pipe(
 *     Idempotency.once({ scope: "run-1", tool: "send", args, success: Schema.Int })
 *   )
 *
 * const program = Effect.all([send({ to: "ann", amount: 5 }), send({ amount: 5, to: "ann" }), send({ to: "bob", amount: 5 })])
 *
 * await Effect.runPromise(Effect.provide(program, Idempotency.layerMemory)) // => [1, 1, 2]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function once<Success extends Schema.Constraint, Failure extends Schema.Constraint = Schema.Never>(
  options: OnceOptions<Success, Failure>
): <E, R>(
  effect: Effect.Effect<Success["Type"], E, R>
) => Effect.Effect<
  Success["Type"],
  E | Failure["Type"] | OnceError,
  R | CodecServices<Success> | CodecServices<Failure> | Idempotency
>
export function once<Success extends Schema.Constraint, E, R, Failure extends Schema.Constraint = Schema.Never>(
  options: OnceOptions<Success, Failure>,
  effect: Effect.Effect<Success["Type"], E, R>
): Effect.Effect<
  Success["Type"],
  E | Failure["Type"] | OnceError,
  R | CodecServices<Success> | CodecServices<Failure> | Idempotency
>
export function once<Success extends Schema.Constraint, E, R, Failure extends Schema.Constraint = Schema.Never>(
  options: OnceOptions<Success, Failure>,
  effect?: Effect.Effect<Success["Type"], E, R>
): unknown {
  const apply = (effect: Effect.Effect<Success["Type"], E, R>) =>
    Idempotency.use((service) => service.once(options, effect))
  return effect === undefined ? apply : apply(effect)
}

/**
 * Forgets all results of a scope, for instance when its run is over. A call that is under way is not disturbed, and is
 * remembered when it ends.
 *
 * Fails with {@link IdempotencyStoreError}.
 *
 * @category combinators
 * @since 0.1.0
 */
export const clear = (scope: string): Effect.Effect<void, IdempotencyStoreError, Idempotency> =>
  Idempotency.use((service) => service.clear(scope))
