import { assert, it } from "@effect/vitest"
import { Effect, Fiber, identity, Layer, Result, Schema } from "effect"
import { Checkpoint, CheckpointStore, Compensation, EscalationQueue } from "effect-resilience"
import { CrashPoints } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

const Name = Schema.Literals(["a", "b"])
const Delay = Schema.Literals([0, 1, 2])
const Act = Schema.Struct({ _tag: Schema.Literal("Act"), name: Name, delay: Delay, once: Schema.Boolean })
// Fails the first time it is asked, which the program handles with another step.
const Flaky = Schema.Struct({ _tag: Schema.Literal("Flaky"), name: Name, delay: Delay })
const Fail = Schema.Struct({ _tag: Schema.Literal("Fail"), delay: Delay })

const above = <Node extends Schema.Codec<unknown>>(node: Node) => {
  const body = Schema.Array(node).check(Schema.isMaxLength(3))
  return {
    nest: Schema.Struct({ _tag: Schema.Literal("Nest"), name: Name, body }),
    within: Schema.Struct({ _tag: Schema.Literal("Within"), name: Name, body }),
    saga: Schema.Struct({ _tag: Schema.Literal("Saga"), name: Name, body }),
    group: Schema.Struct({
      _tag: Schema.Literal("Group"),
      branches: Schema.Array(body).check(Schema.isMaxLength(3))
    })
  }
}
const Leaf = Schema.Union([Act, Act, Flaky, Fail])
const one = above(Leaf)
const Middle = Schema.Union([Act, Act, Flaky, one.nest, one.within, one.saga, one.group])
const two = above(Middle)
const Node = Schema.Union([Act, Act, Flaky, Fail, two.nest, two.within, two.saga, two.group])
const Program = Schema.Array(Node).check(Schema.isMaxLength(5))

type Node =
  | typeof Act.Type
  | typeof Flaky.Type
  | typeof Fail.Type
  | { readonly _tag: "Nest" | "Within" | "Saga"; readonly name: "a" | "b"; readonly body: ReadonlyArray<Node> }
  | { readonly _tag: "Group"; readonly branches: ReadonlyArray<ReadonlyArray<Node>> }

const hasSaga = (node: Node): boolean => {
  switch (node._tag) {
    case "Saga":
      return true
    case "Nest":
    case "Within":
      return node.body.some(hasSaga)
    case "Group":
      return node.branches.some((branch) => branch.some(hasSaga))
    default:
      return false
  }
}

class Down extends Schema.TaggedError<Down>()("Down", {}) {}

class World {
  readonly acts = new Map<string, number>()
  readonly undone = new Map<string, number>()
  readonly inDoubt = new Set<string>()
  readonly asked = new Set<string>()
  private readonly count = (map: Map<string, number>, place: string) => void map.set(place, (map.get(place) ?? 0) + 1)
  readonly act = (place: string, delay: number) =>
    Effect.sleep(delay).pipe(
      Effect.andThen(Effect.sync(() => this.count(this.acts, place))),
      Effect.andThen(Effect.sleep(delay)),
      Effect.as(place)
    )
  readonly undo = (place: string, { inDoubt }: Compensation.Undoing) =>
    Effect.sleep(1).pipe(
      Effect.andThen(Effect.sync(() => {
        this.count(this.undone, place)
        if (inDoubt) this.inDoubt.add(place)
      })),
      Effect.andThen(Effect.sleep(1))
    )
  readonly look = (map: Map<string, number>, place: string) =>
    Effect.sync(() => map.has(place) ? Checkpoint.happened(place) : Checkpoint.notHappened)
}

const interpreter = (world: World, remembered: boolean) => {
  const text = { success: Schema.String }
  const undo = Compensation.make("undo", { input: Schema.String }, world.undo)
  const once = Compensation.make(
    "once",
    { input: Schema.String, effects: "atMostOnce", reconcile: (place) => world.look(world.undone, place) },
    world.undo
  )
  type Run = Effect.Effect<
    void,
    Down | Compensation.SagaError | Checkpoint.AmbiguousStep,
    Checkpoint.Run | EscalationQueue.EscalationQueue | Compensation.CanUndo<"undo"> | Compensation.CanUndo<"once">
  >

  const act = (name: string, place: string, delay: number) =>
    Checkpoint.step(
      name,
      { ...text, undo: { by: undo, input: (what) => what, inDoubt: () => place } },
      world.act(place, delay)
    )

  const interpret = (node: Node, place: string): Run => {
    switch (node._tag) {
      case "Act":
        return node.once
          ? Effect.asVoid(Checkpoint.step(
            node.name,
            {
              ...text,
              effects: "atMostOnce",
              reconcile: world.look(world.acts, place),
              undo: { by: once, input: (what) => what, inDoubt: () => place }
            },
            world.act(place, node.delay)
          ))
          : Effect.asVoid(act(node.name, place, node.delay))
      case "Flaky": {
        const flaky = Effect.suspend(() => {
          if (world.asked.has(place)) return Effect.succeed(place)
          world.asked.add(place)
          return Effect.fail(new Down())
        })
        const asked = remembered
          ? Checkpoint.step(node.name, { ...text, error: Down }, flaky)
          : Checkpoint.step(node.name, text, flaky)
        return Effect.asVoid(Effect.catchTag(asked, "Down", () => act("instead", place, node.delay)))
      }
      case "Fail":
        return Effect.delay(new Down(), node.delay)
      case "Nest":
        return Checkpoint.step(node.name, {}, interpretAll(node.body, `${place}/`))
      case "Within":
        return Checkpoint.within(node.name)(interpretAll(node.body, `${place}/`))
      case "Saga":
        return interpretAll(node.body, `${place}~`).pipe(
          Compensation.saga({ name: node.name }),
          Effect.catchTag("SagaFailed", () => Effect.void)
        )
      case "Group":
        return Effect.asVoid(Checkpoint.forEach(
          node.branches,
          (branch, index) => interpretAll(branch, `${place}[${index}]`),
          { concurrency: 3 }
        ))
    }
  }

  const interpretAll = (nodes: ReadonlyArray<Node>, place: string): Run =>
    Effect.forEach(nodes, (node, index) => interpret(node, `${place}${index}`), { discard: true })

  return (nodes: ReadonlyArray<Node>) =>
    interpretAll(nodes, "").pipe(
      Compensation.saga({ name: "saga", undo: [undo, once], error: Down }),
      Checkpoint.run({ id: "r" })
    )
}

const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(1)
  return yield* Fiber.join(fiber)
})

/** Fails every record after so many, half of the time after writing it. */
const cut = (store: CheckpointStore.CheckpointStore["Service"], records: number) => {
  let written = 0
  return CheckpointStore.CheckpointStore.of({
    ...store,
    append: (lease, entry, status) =>
      Effect.suspend(() => {
        if (written++ < records) return store.append(lease, entry, status)
        const lost = new CheckpointStore.CheckpointStoreError({ operation: "append", reason: { _tag: "Rejected" } })
        return written === records + 1 && records % 2 === 0
          ? Effect.andThen(store.append(lease, entry, status), lost)
          : lost
      })
  })
}

const Cuts = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 }))).check(Schema.isMaxLength(5))

const World_ = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)

const property = (
  name: string,
  around: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>,
  times: number
) =>
  it.effect.prop(
    `Compensation: any program, cut off any number of times${name}, leaves all that it did, or nothing`,
    [Program, Cuts],
    ([nodes, cuts]) =>
      Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        const world = new World()
        const program = interpreter(world, nodes.some(hasSaga))(nodes)
        let failed = false
        for (const records of cuts) {
          const acts = new Map(world.acts)
          const result = yield* inVirtualTime(
            Effect.result(Effect.provideService(program, CheckpointStore.CheckpointStore, cut(store, records)))
          )
          if (Result.isFailure(result)) assert.include(["CheckpointStoreError", "Down"], result.failure._tag)
          if (failed) assert.deepStrictEqual(world.acts, acts, "a failed saga never goes forward")
          failed = (yield* store.read("r")).some(({ step }) => step === "saga~/~undo")
        }
        const acts = new Map(world.acts)
        const result = yield* inVirtualTime(Effect.result(program))
        if (failed) assert.deepStrictEqual(world.acts, acts, "a failed saga never goes forward")
        if (Result.isFailure(result)) {
          assert.strictEqual(result.failure._tag, "Down")
          for (const place of world.acts.keys()) assert.isTrue(world.undone.has(place), `${place} is undone`)
        } else {
          const outside = Array.from(world.undone.keys()).filter((place) => !place.includes("~"))
          assert.deepStrictEqual(outside, [], "what is not in a saga that failed stays")
        }
        for (const [place, times] of world.undone) {
          assert.isTrue(world.acts.has(place) || world.inDoubt.has(place), `${place} happened, or nobody knows`)
          assert.isAtMost(times, 1 + cuts.length, place)
        }
        const undone = new Map(world.undone)
        const again = yield* inVirtualTime(Effect.result(program))
        assert.deepStrictEqual(again, result)
        assert.deepStrictEqual(world.undone, undone, "it is undone once and for all")
      }).pipe(around, Effect.provide(World_)),
    { arbitrary: { runs: times, seed: 1 }, timeout: 600_000 }
  )

property("", identity, runs(150, 3000))
property(" and resumed after each step", CrashPoints.alwaysReplay, runs(50, 1000))
