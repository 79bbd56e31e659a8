import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as References from "effect/References"
import * as Fault from "../../Fault.ts"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import { CircuitOpen } from "./circuitOpen.ts"
import type { CircuitOptions, ServiceSettings } from "./circuitSettings.ts"
import {
  type Change,
  Circuit,
  ignored,
  type Outcome,
  type Refusal,
  type Settings,
  success,
  Ticket
} from "./circuitState.ts"
import { registry } from "./engines.ts"
import { withoutStack } from "./withoutStack.ts"

/**
 * Leave to run one call, to be settled exactly once.
 *
 * @internal
 */
export interface Admission extends Ticket {}

/**
 * What a circuit breaker of this process decides, each in one synchronous step: no two calls can get one slot, and no
 * interruption comes between a decision and its record. `now` is in milliseconds (`millisIn`).
 *
 * @internal
 */
export interface CircuitEngine {
  /** Why a call would be refused at this moment. Changes nothing; the listener hears of a refusal. */
  readonly check: (
    key: string,
    options: CircuitOptions | undefined,
    now: number,
    context: Context.Context<never>
  ) => CircuitOpen | undefined
  /** Takes a place, which is lost unless it is settled: the finalizer that does so has to be there before. */
  readonly admit: (
    key: string,
    options: CircuitOptions | undefined,
    now: number,
    context: Context.Context<never>
  ) => Admission | CircuitOpen
  /** Gives the place back and counts how the call ended. Throws what the user's classifier throws, the place given back. */
  readonly settle: (
    admission: Admission,
    exit: Exit.Exit<unknown, unknown>,
    now: number,
    context: Context.Context<never>
  ) => void
  /** Whether there is something to announce. */
  readonly pending: boolean
  /** Publishes the transitions made so far, and warns of a listener that threw. */
  readonly announce: Effect.Effect<void>
}

/** @internal */
export const { engineOf, withEngine } = registry<CircuitEngine>()

/**
 * Runs an effect through a circuit.
 *
 * @internal
 */
export const guard = <A, E, R>(
  engine: CircuitEngine,
  self: Effect.Effect<A, E, R>,
  key: string,
  options: CircuitOptions | undefined
): Effect.Effect<A, E | CircuitOpen, R> =>
  Effect.withFiber(({ context }) => {
    let admission: Admission | undefined
    // The finalizer is in place before the circuit admits, and not after: no interruption fits in between.
    return Effect.onExitPrimitive(
      Effect.suspend((): Effect.Effect<A, E | CircuitOpen, R> => {
        const admitted = engine.admit(key, options, millisIn(context), context)
        if (!(admitted instanceof Ticket)) {
          return engine.pending ? Effect.andThen(engine.announce, Effect.fail(admitted)) : Effect.fail(admitted)
        }
        admission = admitted
        return engine.pending ? Effect.andThen(engine.announce, self) : self
      }),
      (exit) => {
        if (admission !== undefined) engine.settle(admission, exit, millisIn(context), context)
        return engine.pending ? engine.announce : undefined
      }
    )
  })

const longer = (a: Duration.Duration | undefined, b: Duration.Duration | undefined): Duration.Duration | undefined =>
  a === undefined || (b !== undefined && Duration.isLessThan(a, b)) ? b : a

/**
 * How a call that did not succeed counts: any reason that counts makes a failure, whatever stands beside it.
 *
 * @internal
 */
export const judge = (cause: Cause.Cause<unknown>, settings: Settings, context: Context.Context<never>): Outcome => {
  let counts = false
  let retryAfter: Duration.Duration | undefined
  for (const reason of cause.reasons) {
    if (Cause.isDieReason(reason)) {
      counts = true
    } else if (Cause.isFailReason(reason)) {
      const verdict = Fault.classifyIn(context, reason.error)
      if (settings.countsAsFailure(verdict, reason.error)) {
        counts = true
        retryAfter = longer(retryAfter, Fault.retryAfter(verdict))
      }
    }
  }
  return counts ? { _tag: "Failure", retryAfter } : ignored
}

/**
 * Whole milliseconds to wait, never too few.
 *
 * @internal
 */
export const waitMillis = (value: number): number => Math.max(0, Math.ceil(value - rounding))

/** @internal */
export const circuitOpen = (key: string, state: Refusal["state"], wait: number | undefined): CircuitOpen =>
  withoutStack(() =>
    new CircuitOpen(wait === undefined ? { key, state } : { key, state, retryAfter: Duration.millis(wait) })
  )

/**
 * The circuits of one service, by key.
 *
 * @internal
 */
export class Circuits implements CircuitEngine {
  private settings: ServiceSettings
  private readonly byKey = new Map<string, Circuit>()
  private sweptAt = Number.NEGATIVE_INFINITY
  // What may have made room or taken it since all circuits were last looked through: new keys, ended calls, changes by hand.
  private changes = 0
  // Filled in the very step that makes a transition and emptied in order: readers see transitions as they happened,
  // whichever fiber gets to publish first and whichever is interrupted before it does.
  private fresh: Array<Change> = []
  private unpublished: Array<Change> = []
  private warnings: Array<Effect.Effect<void>> = []
  private readonly changed = (change: Change): void => {
    this.fresh.push(change)
  }
  readonly announce: Effect.Effect<void>

  constructor(settings: ServiceSettings, publish: (changes: ReadonlyArray<Change>) => Effect.Effect<unknown>) {
    this.settings = settings
    this.announce = Effect.uninterruptible(
      Effect.suspend(() => {
        const { unpublished, warnings } = this
        this.unpublished = []
        this.warnings = []
        return Effect.andThen(publish(unpublished), Effect.all(warnings, { discard: true }))
        // A fiber that yielded between taking and publishing would let another one publish first what came later.
      }).pipe(Effect.provideService(References.PreventSchedulerYield, true))
    )
  }

  get pending(): boolean {
    return this.unpublished.length > 0 || this.warnings.length > 0
  }

  get size(): number {
    return this.byKey.size
  }

  check(
    key: string,
    options: CircuitOptions | undefined,
    now: number,
    context: Context.Context<never>
  ): CircuitOpen | undefined {
    const circuit = this.byKey.get(key)
    if (circuit === undefined) return undefined
    const isFirst = options !== undefined && circuit.asked === undefined
    const settings = isFirst ? this.settings.of(key, options) : circuit.settings
    const refused = circuit.refusal(settings, now)
    return refused === undefined ? undefined : this.reject(key, refused, context)
  }

  admit(
    key: string,
    options: CircuitOptions | undefined,
    now: number,
    context: Context.Context<never>
  ): Admission | CircuitOpen {
    if (now - this.sweptAt >= this.settings.sweepEvery) this.sweep(now)
    const circuit = this.circuitOf(key, options, now)
    const admitted = circuit.admit(now)
    if (this.fresh.length > 0) this.tell(context)
    return admitted instanceof Ticket ? admitted : this.reject(key, admitted, context)
  }

  settle(
    admission: Admission,
    exit: Exit.Exit<unknown, unknown>,
    now: number,
    context: Context.Context<never>
  ): void {
    const { circuit } = admission
    let outcome: Outcome = ignored
    try {
      outcome = Exit.isSuccess(exit) ? success : judge(exit.cause, circuit.settings, context)
    } finally {
      // Also when the user's classifier throws: the call dies of it, and the slot is free all the same.
      this.changes++
      circuit.settle(admission, outcome, now, context)
      if (this.fresh.length > 0) this.tell(context)
    }
  }

  peek(key: string, now: number): Circuit {
    return this.byKey.get(key) ?? this.makeCircuit(key, undefined, now)
  }

  all(now: number): Iterable<Circuit> {
    this.sweep(now)
    return this.byKey.values()
  }

  reset(key: string, now: number, context: Context.Context<never>): void {
    this.changes++
    this.byKey.get(key)?.reset(now)
    this.tell(context)
  }

  hold(key: string, holder: object, now: number, context: Context.Context<never>): Circuit {
    this.changes++
    const circuit = this.circuitOf(key, undefined, now)
    circuit.hold(holder, now)
    this.tell(context)
    return circuit
  }

  release(circuit: Circuit, holder: object, now: number, context: Context.Context<never>): void {
    this.changes++
    circuit.release(holder, now)
    this.tell(context)
  }

  configure(settings: ServiceSettings, now: number, context: Context.Context<never>): void {
    this.changes++
    this.settings = settings
    for (const circuit of this.byKey.values()) {
      circuit.configure(settings.of(circuit.key, circuit.asked), now)
      circuit.seen = circuit.asked
    }
    this.tell(context)
  }

  private circuitOf(key: string, options: CircuitOptions | undefined, now: number): Circuit {
    const known = this.byKey.get(key)
    if (known === undefined) {
      const circuit = this.makeCircuit(key, options, now)
      this.makeRoom(now)
      this.byKey.set(key, circuit)
      return circuit
    }
    if (options !== undefined && options !== known.seen) this.meet(known, options, now)
    return known
  }

  /** The first caller with options decides. Another one, who would decide otherwise, is told once for each key. */
  private meet(circuit: Circuit, options: CircuitOptions, now: number): void {
    const { asked, key } = circuit
    circuit.seen = options
    if (asked === undefined) {
      circuit.asked = options
      circuit.configure(this.settings.of(key, options), now)
    } else if (!circuit.isWarned) {
      const objection = this.settings.objection(key, asked, options)
      if (objection === undefined) return
      circuit.isWarned = true
      this.warnings.push(Effect.logWarning(objection))
    }
  }

  private makeCircuit(key: string, options: CircuitOptions | undefined, now: number): Circuit {
    return new Circuit(key, this.settings.of(key, options), options, now, this.changed)
  }

  private sweep(now: number): void {
    this.sweptAt = now
    for (const [key, circuit] of this.byKey) {
      if (circuit.isForgettable(now, this.settings.idleTimeToLive)) this.byKey.delete(key)
    }
  }

  private makeRoom(now: number): void {
    this.changes++
    const { maxKeys } = this.settings
    // What a look through all circuits costs is shared by a tenth as many changes. Where all of them are busy there is
    // nothing to find, and looking again for each new key would cost the square of their number.
    if (this.byKey.size < maxKeys || this.changes < this.byKey.size / 10) return
    this.changes = 0
    const unused = Array.from(this.byKey.values()).filter((circuit) => circuit.isUnused())
    const closed = unused.filter((circuit) => circuit.isClosed())
    const ready = unused.filter((circuit) => !circuit.isWaiting(now))
    const first = closed.length > 0 ? closed : ready.length > 0 ? ready : unused
    first.sort((a, b) => a.lastUsed - b.lastUsed)
    const surplus = this.byKey.size - maxKeys + Math.max(1, Math.floor(maxKeys / 10))
    for (const circuit of first.slice(0, surplus)) this.byKey.delete(circuit.key)
  }

  private tell(context: Context.Context<never>): void {
    const { fresh } = this
    this.fresh = []
    // All of them before the first is told: a listener may make further transitions, which come after these.
    this.unpublished.push(...fresh)
    for (const change of fresh) {
      this.hear(Telemetry.emitIn(context, () => ({ _tag: "CircuitChanged", ...change })))
    }
  }

  private reject(key: string, { retryAfter, state }: Refusal, context: Context.Context<never>): CircuitOpen {
    const wait = retryAfter === undefined ? undefined : waitMillis(retryAfter)
    this.hear(Telemetry.emitIn(context, () => ({ _tag: "CircuitRejected", key, retryAfterMillis: wait })))
    return circuitOpen(key, state, wait)
  }

  private hear(rest: Effect.Effect<void>): void {
    if (rest !== Effect.void) this.warnings.push(rest)
  }
}
