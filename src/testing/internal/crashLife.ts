import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import { CurrentRequest, make as makeClock, type Request } from "./crashClock.ts"
import { ProcessScheduler } from "./crashScheduler.ts"

/** @internal */
export type Way = "killed" | "interrupted" | "disconnected" | "silent"

/** @internal */
export type Operation = "acquire" | "renew" | "append" | "release" | "remove" | "effect"

/** @internal */
export interface Boundary {
  readonly index: number
  readonly moment: "before" | "after"
  readonly operation: Operation
  readonly what: string
}

/** @internal */
export interface Crash {
  readonly boundary: number
  readonly way: Way
}

/** How a life ended: by itself, by a kill, or not at all. @internal */
export type Ending<A, E> =
  | { readonly _tag: "Exited"; readonly exit: Exit.Exit<A, E> }
  | { readonly _tag: "Killed" }
  | { readonly _tag: "Endless"; readonly why: string }

/**
 * The life of one process, from its start to its end: counts the boundaries that it crosses, and crashes at one.
 *
 * @internal
 */
export class Life<A, E> {
  readonly number: number
  readonly boundaries: Array<Boundary> = []
  readonly scheduler: ProcessScheduler
  readonly clock: Clock.Clock
  readonly untilWake: () => number | undefined
  /** Where it crashed. */
  struck: Boundary | undefined
  /** How its store is gone, while it itself lives on. */
  lost: "disconnected" | "silent" | undefined
  ending: Ending<A, E> | undefined
  readonly ended = Deferred.makeUnsafe<void>()
  private readonly outer: Scheduler.Scheduler
  private readonly crash: Crash | undefined
  private readonly maxBoundaries: number
  private root: Fiber.Fiber<A, E> | undefined
  private dead = false
  private cleaning = false
  private readonly requests = new Map<Request, Fiber.Fiber<unknown, unknown>>()
  private readonly hanging: Array<() => void> = []

  constructor(options: {
    readonly number: number
    readonly outer: Scheduler.Scheduler
    readonly clock: Clock.Clock
    readonly ahead: Duration.Duration
    readonly crash: Crash | undefined
    readonly maxBoundaries: number
  }) {
    this.number = options.number
    this.outer = options.outer
    this.crash = options.crash
    this.maxBoundaries = options.maxBoundaries
    this.scheduler = new ProcessScheduler(options.outer)
    const { clock, untilWake } = makeClock(options.clock, options.ahead)
    this.clock = clock
    this.untilWake = untilWake
  }

  /** Where and how it crashed, if it did. */
  get crashed(): { readonly boundary: number; readonly way: Way; readonly at: string } | undefined {
    const { crash, struck } = this
    if (crash === undefined || struck === undefined) return undefined
    return { boundary: struck.index, way: crash.way, at: `${struck.moment} ${struck.what}` }
  }

  start(root: Fiber.Fiber<A, E>): void {
    this.root = root
    root.addObserver((exit) => this.end({ _tag: "Exited", exit }))
  }

  /** The process is gone: nothing of it goes on, and nobody answers what still asks. */
  kill(ending: Ending<A, E> = { _tag: "Killed" }): void {
    this.dead = true
    this.scheduler.stop()
    this.end(ending)
  }

  private end(ending: Ending<A, E>): void {
    this.ending ??= ending
    Deferred.doneUnsafe(this.ended, Effect.void)
  }

  /**
   * Lets what is left of a dead process clean up, where closing its layers waits for that. It reaches neither the store
   * nor the outside any more.
   */
  cleanUp(): void {
    this.cleaning = true
    this.scheduler.resume()
    for (const resume of this.hanging.splice(0)) resume()
    this.root?.interruptUnsafe()
  }

  get isDead(): boolean {
    return this.dead
  }

  /** What a dead process gets from whatever it asks: nothing. */
  readonly gone: Effect.Effect<never> = Effect.suspend(() =>
    this.cleaning
      ? Effect.interrupt
      : Effect.callback<never>((resume) => {
        this.hanging.push(() => resume(Effect.interrupt))
      })
  )

  /** Goes over a boundary, or crashes there. */
  cross(operation: Operation, moment: Boundary["moment"], what: () => string): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.dead) return this.gone
      // What a process does after its crash, if it can do anything, is no boundary of the program.
      if (this.struck !== undefined) return Effect.void
      const index = this.boundaries.length + 1
      const boundary: Boundary = { index, moment, operation, what: what() }
      this.boundaries.push(boundary)
      if (index > this.maxBoundaries) {
        this.kill({ _tag: "Endless", why: `it crossed ${this.maxBoundaries} boundaries` })
        return this.gone
      }
      if (index !== this.crash?.boundary) return Effect.void
      this.struck = boundary
      switch (this.crash.way) {
        case "killed":
          this.kill()
          return this.gone
        case "interrupted":
          this.root?.interruptUnsafe()
          return Effect.void
        default:
          this.lost = this.crash.way
          return Effect.void
      }
    })
  }

  /**
   * Asks something of the outside, which does it whatever becomes of the process meanwhile: what is under way to a
   * server or to a disk when a process is killed arrives.
   */
  outside<A2, E2, R2>(effect: Effect.Effect<A2, E2, R2>, isToStore: boolean): Effect.Effect<A2, E2, R2> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        const request: Request = { isToStore, sleeping: 0 }
        return Effect.withFiber<A2, E2, R2>((fiber) => {
          this.requests.set(request, fiber)
          return effect
        }).pipe(
          Effect.ensuring(Effect.sync(() => this.requests.delete(request))),
          Effect.provideService(CurrentRequest, request),
          Effect.forkDetach({ startImmediately: true }),
          Effect.provideService(Scheduler.Scheduler, this.outer),
          Effect.flatMap((fiber) => restore(Fiber.join(fiber)).pipe(Effect.onInterrupt(() => Fiber.interrupt(fiber))))
        )
      })
    )
  }

  /** Whether nothing happens before the clock is moved. */
  isQuiet(): boolean {
    if (!this.scheduler.isQuiet()) return false
    for (const request of this.requests.keys()) if (request.sleeping === 0) return false
    return true
  }

  /** Whether the store may be about to answer, although it is looking at the clock meanwhile. */
  awaitsStore(): boolean {
    for (const request of this.requests.keys()) if (request.isToStore) return true
    return false
  }

  /** Whether something is under way to the outside. */
  hasRequests(): boolean {
    return this.requests.size > 0
  }

  /** Ends what never arrives. */
  get dropRequests(): Effect.Effect<void> {
    return Effect.suspend(() => Fiber.interruptAll(Array.from(this.requests.values())))
  }
}
