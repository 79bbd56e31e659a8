import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import * as CheckpointStore from "../../durable/CheckpointStore.ts"
import { Insists } from "../../internal/insists.ts"
import * as Compare from "./crashCompare.ts"
import { Observer } from "./crashEffect.ts"
import { type Crash, Life } from "./crashLife.ts"
import { observed } from "./crashStore.ts"
import { type Done, Story } from "./crashStory.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

/** @internal */
export interface Setting<A, E, R, W, WE, WR, P, PE, PR> {
  readonly program: Effect.Effect<A, E, R>
  readonly world: Layer.Layer<W, WE, WR>
  readonly process: Layer.Layer<P, PE, PR>
  readonly isSame: (expected: Exit.Exit<A, E>, found: Exit.Exit<A, E>) => boolean
  readonly advance: ((duration: Duration.Duration) => Effect.Effect<void>) | undefined
  readonly downtime: Duration.Duration
  readonly patience: Duration.Duration
  readonly maxBoundaries: number
  readonly seed: string
}

/** What one story came to. @internal */
export interface Told<A, E> {
  readonly story: Story
  readonly lives: ReadonlyArray<Life<A, E>>
  readonly findings: ReadonlyArray<Compare.Finding>
  /** What the first life ended with that did not crash, and what was done until then. */
  readonly exit: Exit.Exit<A, E> | undefined
  readonly effects: ReadonlyArray<Done>
}

// Promises and the turns of the event loop come to their end without the clock.
const idleTurns = 4
// A server takes real time to answer, and a driver that bounds it by the clock must not be hurried.
const storeTurns = 50
// A process that has lost its store and waits for nothing but an answer is ended by whoever looks after it.
const hopelessTurns = 20
const maxMoves = 10_000
const closingTurns = 20

/** Whether the clock around is one that somebody has to move. @internal */
export const isVirtual: Effect.Effect<boolean> = Effect.map(
  Clock.clockWith(Effect.succeed),
  (clock) => Predicate.hasProperty(clock, "adjust")
)

/** Waits in real time, whatever the clock around. */
const inRealTime = (duration: Duration.Duration): Effect.Effect<void> =>
  Effect.flatMap(isVirtual, (virtual) => {
    const sleep = Effect.sleep(duration)
    return virtual ? TestClock.withLive(sleep) : sleep
  })

/**
 * Runs a program in the stories of one setting, each in a world of its own: a process after the other, the first ones
 * crashing, until one comes to its end.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*<A, E, R, W, WE, WR, P, PE, PR>(
  setting: Setting<A, E, R, W, WE, WR, P, PE, PR>
) {
  const { advance, downtime, maxBoundaries, patience, seed } = setting
  const outer = yield* Scheduler.Scheduler
  const clock = yield* Clock.clockWith(Effect.succeed)

  /** Lets time go by until something is so, and no longer than a person would wait. */
  const until = Effect.fnUntraced(function*(life: Life<A, E>, isSo: () => boolean) {
    if (advance === undefined) {
      while (!isSo()) yield* Effect.sleep(1)
      return
    }
    let idle = 0
    let moves = 0
    while (!isSo()) {
      yield* Effect.yieldNow
      if (isSo()) return
      if (!life.isQuiet()) {
        idle = 0
        continue
      }
      if (++idle < idleTurns) continue
      if (life.awaitsStore() && idle < storeTurns) {
        yield* inRealTime(Duration.millis(1))
        continue
      }
      const wait = life.untilWake()
      if (wait === undefined) {
        if (life.struck !== undefined && idle > hopelessTurns) life.kill()
        continue
      }
      if (++moves > maxMoves) {
        life.kill(life.struck === undefined ? { _tag: "Endless", why: `it woke up ${maxMoves} times` } : undefined)
        return
      }
      idle = 0
      yield* advance(Duration.millis(wait))
    }
  })

  const patiently = (effect: Effect.Effect<void>): Effect.Effect<boolean> =>
    Effect.raceFirst(Effect.as(effect, true), Effect.as(inRealTime(patience), false))

  const ending = Effect.fnUntraced(function*(life: Life<A, E>) {
    const waiting = advance === undefined
      ? Deferred.await(life.ended)
      : until(life, () => life.ending !== undefined)
    const ended = yield* patiently(waiting)
    if (!ended) {
      life.kill(
        life.struck === undefined
          ? { _tag: "Endless", why: `it did not end within ${Duration.format(patience)}` }
          : undefined
      )
    }
    // Whatever ended the life called us from within.
    yield* Effect.yieldNow
    if (!life.hasRequests() || (yield* patiently(until(life, () => !life.hasRequests())))) return
    yield* life.dropRequests
  })

  const close = Effect.fnUntraced(function*(scope: Scope.Closeable, lives: ReadonlyArray<Life<A, E>>) {
    const closing = yield* Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true })
    const isClosed = () => closing.pollUnsafe() !== undefined
    for (let turn = 0; turn < closingTurns && !isClosed(); turn++) yield* Effect.yieldNow
    const last = lives.at(-1)
    if (isClosed() || last === undefined) return
    for (const life of lives) if (life.isDead) life.cleanUp()
    yield* patiently(until(last, isClosed))
    for (const life of lives) if (life.isDead) life.scheduler.stop()
  })

  const readJournals = Effect.fnUntraced(function*(store: Store, story: Story) {
    const journals = new Map<string, ReadonlyArray<CheckpointStore.Entry>>()
    const lost: Array<Compare.Finding> = []
    for (const runId of story.runs) {
      const entries = yield* Effect.option(store.read(runId))
      // A journal that cannot be read, the next process cannot read either.
      if (Option.isNone(entries)) continue
      journals.set(runId, entries.value)
      const finding = Compare.lostRecord(runId, story.acknowledged.get(runId) ?? new Map(), entries.value)
      if (finding !== undefined) lost.push(finding)
    }
    return { journals, lost }
  })

  const areCompleted = (store: Store, runs: ReadonlySet<string>) =>
    Effect.map(
      Effect.forEach(runs, (runId) => Effect.option(store.get(runId))),
      (found) =>
        found.length > 0 &&
        found.every((run) => Option.isSome(run) && Option.isSome(run.value) && run.value.value.status === "completed")
    )

  const live = Effect.fnUntraced(function*(
    story: Story,
    world: Context.Context<W>,
    worldStore: Store,
    number: number,
    crash: Crash | undefined
  ) {
    const life = new Life<A, E>({
      number,
      outer,
      clock,
      ahead: Duration.times(downtime, number - 1),
      crash,
      maxBoundaries
    })
    const inside = <A2, E2, R2>(effect: Effect.Effect<A2, E2, R2>): Effect.Effect<A2, E2, R2> =>
      effect.pipe(
        Effect.provideService(Observer, { life, story }),
        Effect.provideService(Clock.Clock, life.clock),
        Effect.provideService(Insists, advance !== undefined),
        Random.withSeed(`${seed}/${number}`)
      )
    const withStore = <S>(context: Context.Context<S>, store: Store) =>
      Context.add(context, CheckpointStore.CheckpointStore, observed(store, life, story))
    const scope = yield* Scope.make()
    return yield* Effect.gen(function*() {
      // Programs that provide layers of their own build them anew in every life.
      const alone: Context.Context<W> = Context.add(world, Layer.CurrentMemoMap, Layer.makeMemoMapUnsafe())
      const around = withStore(alone, worldStore)
      const process = yield* Layer.buildWithMemoMap(setting.process, Layer.makeMemoMapUnsafe(), scope).pipe(
        Effect.provide(around),
        inside
      )
      const own = Context.getOption(process, CheckpointStore.CheckpointStore)
      const store = Option.getOrElse(own, () => worldStore)
      const services = Option.isSome(own) ? withStore(process, own.value) : process
      const root = yield* setting.program.pipe(
        Effect.provide(Context.merge(around, services)),
        inside,
        Effect.forkDetach,
        Effect.provideService(Scheduler.Scheduler, life.scheduler)
      )
      life.start(root)
      yield* ending(life)
      story.tell(number, () => tellEnding(life))
      const { journals, lost } = yield* readJournals(store, story)
      return { life, journals, lost, areCompleted: yield* areCompleted(store, story.runs) }
    }).pipe(
      Effect.onExit((exit) => {
        if (Exit.isFailure(exit)) life.kill()
        // A process that ends by itself closes its layers, one that is killed does not: there it is done for it.
        return Effect.andThen(close(scope, [life]), Effect.sync(() => life.kill()))
      })
    )
  })

  /** Lives on until a life ends that did not crash, and once more to see that a completed run is only read. */
  const tell = Effect.fnUntraced(function*(
    crashes: ReadonlyArray<Crash>,
    reference: Compare.Reference<A, E> | undefined,
    first = 1
  ) {
    const story = new Story()
    const findings: Array<Compare.Finding> = []
    const lives: Array<Life<A, E>> = []
    let journals: Compare.Journals = new Map()
    const compare = (subject: string, expected: Exit.Exit<A, E>, found: Exit.Exit<A, E>) => {
      if (setting.isSame(expected, found)) return
      findings.push({ kind: "OtherResult", subject, expected: Compare.show(expected), found: Compare.show(found) })
    }
    const scope = yield* Scope.make()

    return yield* Effect.gen(function*() {
      const building = Layer.buildWithMemoMap(setting.world, Layer.makeMemoMapUnsafe(), scope)
      const world = yield* Random.withSeed(building, seed)
      const store = yield* Option.match(Context.getOption(world, CheckpointStore.CheckpointStore), {
        onNone: () => CheckpointStore.makeMemory(),
        onSome: Effect.succeed
      })
      const next = Effect.fnUntraced(function*(crash?: Crash) {
        const before = journals
        const lived = yield* live(story, world, store, first + lives.length, crash)
        lives.push(lived.life)
        findings.push(...lived.lost)
        journals = lived.journals
        const effects = story.effects.filter(({ life }) => life === lived.life.number)
        return { ...lived, effects, again: Compare.again(effects, before) }
      })

      const crashed: Array<Compare.Finding> = []
      for (const crash of [...crashes, undefined]) {
        const { again, areCompleted, life } = yield* next(crash)
        crashed.push(...again)
        if (life.ending?._tag === "Endless") {
          findings.push({ kind: "NeverEnded", subject: "the program", expected: "an end", found: life.ending.why })
          break
        }
        const exit = life.ending?._tag === "Exited" ? life.ending.exit : undefined
        if (life.struck !== undefined) {
          // What a process says that has lost its store is said all the same.
          if (exit !== undefined && Exit.isSuccess(exit) && reference !== undefined) {
            compare("the result of the process that crashed", reference.exit, exit)
          }
          continue
        }
        if (exit === undefined) break
        const effects = story.effects.slice()
        if (reference !== undefined) {
          compare("the result", reference.exit, exit)
          findings.push(...Compare.effects(effects, reference, exit))
        }
        if (Exit.isSuccess(exit) && areCompleted) {
          const replay = yield* next()
          if (replay.life.ending?._tag === "Exited") compare("the result of a replay", exit, replay.life.ending.exit)
          crashed.push(...replay.again, ...Compare.afterTheEnd(replay.effects))
        }
        return { story, lives, findings: Compare.distinct([...findings, ...crashed]), exit, effects }
      }
      const told: Told<A, E> = {
        story,
        lives,
        findings: Compare.distinct([...findings, ...crashed]),
        exit: undefined,
        effects: story.effects
      }
      return told
    }).pipe(Effect.onExit(() => close(scope, lives)))
  })

  return { tell }
})

const tellEnding = <A, E>({ crashed, ending }: Life<A, E>): string => {
  const crash = crashed === undefined ? [] : [`${crashed.way} at boundary ${crashed.boundary}, ${crashed.at}`]
  const end = ending?._tag === "Exited"
    ? [`ended with ${Compare.show(ending.exit)}`]
    : ending?._tag === "Endless"
    ? [`never ended: ${ending.why}`]
    : []
  return [...crash, ...end].join("; ")
}
