import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/**
 * How the watchdogs around hear that work inside is alive.
 *
 * @internal
 */
export interface Heartbeat {
  /** The other side is there: a byte, a ping. A watchdog lets that count until its `maxSilence` is over. */
  readonly alive: () => void
  /** Something of the result has come. */
  readonly progress: () => void
}

/** @internal */
export const Heartbeat = Context.Reference<Heartbeat | undefined>("effect-resilience/Deadline/Heartbeat", {
  defaultValue: () => undefined
})

const told = (sign: keyof Heartbeat): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => {
    Context.get(context, Heartbeat)?.[sign]()
    return Effect.void
  })

/** @internal */
export const alive = told("alive")

/** @internal */
export const progress = told("progress")

/**
 * One watchdog's ear: what it hears from inside makes its time begin anew, and is passed on to those around.
 *
 * @internal
 */
export class Watched implements Heartbeat {
  private readonly longest: number | undefined
  private restart: ((longest?: number) => void) | undefined
  private outer: Heartbeat | undefined
  private around: Context.Context<never> | undefined
  private inside: Context.Context<never> | undefined
  private isOver = false

  /** For how many milliseconds signs of life are enough; `undefined` where they always are. */
  constructor(longest: number | undefined) {
    this.longest = longest
  }

  /** The context for what is inside. A stream is pulled many times, mostly in one and the same. */
  enter<R>(context: Context.Context<R>): Context.Context<R> {
    if (this.around === context && this.inside !== undefined) return this.inside as Context.Context<R>
    const inside = Context.add(context, Heartbeat, this)
    this.around = context
    this.inside = inside
    this.outer = Context.get(context, Heartbeat)
    return inside
  }

  readonly start = (restart: (longest?: number) => void): void => {
    this.restart = restart
  }

  alive(): void {
    if (this.isOver) return
    this.restart?.(this.longest)
    this.outer?.alive()
  }

  progress(): void {
    if (this.isOver) return
    this.restart?.()
    this.outer?.progress()
  }

  /** What has come, this watchdog has seen itself; those around may not. */
  readonly passed = (): Effect.Effect<void> => Effect.sync(() => this.outer?.progress())

  get isWatched(): boolean {
    return this.outer !== undefined
  }

  /** Work that goes on all the same keeps nobody waiting any more. */
  end(): void {
    this.isOver = true
    this.restart = undefined
    this.outer = undefined
    this.around = undefined
    this.inside = undefined
  }
}
