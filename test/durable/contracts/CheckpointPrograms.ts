import { assert, it } from "@effect/vitest"
import { Effect, Fiber, identity, Layer, Result, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { TestClock } from "effect/testing"

const Name = Schema.Literals(["a", "b"])
const Ask = Schema.Struct({ _tag: Schema.Literal("Ask"), name: Name, delay: Schema.Literals([0, 1, 2]) })
const Act = Schema.Struct({ _tag: Schema.Literal("Act"), name: Name, delay: Schema.Literals([0, 1, 2]) })
// Fails the first time it is asked, which the program handles with another step.
const Flaky = Schema.Struct({ _tag: Schema.Literal("Flaky"), name: Name })

const above = <Node extends Schema.Codec<unknown>>(node: Node) => {
  const body = Schema.Array(node).check(Schema.isMaxLength(3))
  return {
    nest: Schema.Struct({ _tag: Schema.Literal("Nest"), name: Name, body }),
    within: Schema.Struct({ _tag: Schema.Literal("Within"), name: Name, body }),
    group: Schema.Struct({
      _tag: Schema.Literal("Group"),
      branches: Schema.Array(body).check(Schema.isMaxLength(3))
    })
  }
}
const Leaf = Schema.Union([Ask, Act, Flaky])
const one = above(Leaf)
const Middle = Schema.Union([Ask, Act, Flaky, one.nest, one.within, one.group])
const two = above(Middle)
const Node = Schema.Union([Ask, Act, Flaky, two.nest, two.within, two.group])
const Program = Schema.Array(Node).check(Schema.isMaxLength(4))

type Node =
  | typeof Ask.Type
  | typeof Act.Type
  | typeof Flaky.Type
  | { readonly _tag: "Nest" | "Within"; readonly name: "a" | "b"; readonly body: ReadonlyArray<Node> }
  | { readonly _tag: "Group"; readonly branches: ReadonlyArray<ReadonlyArray<Node>> }

type Answer = string | ReadonlyArray<Answer>
const Answer: Schema.Codec<Answer> = Schema.Union([Schema.String, Schema.Array(Schema.suspend(() => Answer))])

class Down extends Schema.TaggedError<Down>()("Down", {}) {}

interface World {
  readonly acts: Map<string, number>
  readonly asked: Set<string>
}

type Run = Effect.Effect<
  Answer,
  Checkpoint.StepError | Checkpoint.AmbiguousStep,
  Checkpoint.Run
>

const interpret = (world: World, node: Node, place: string): Run => {
  switch (node._tag) {
    case "Ask":
      return Checkpoint.step(node.name, { success: Answer }, Effect.delay(Effect.succeed(place), node.delay))
    case "Act": {
      const did = Effect.sync(() => void world.acts.set(place, (world.acts.get(place) ?? 0) + 1))
      return Checkpoint.step(
        node.name,
        {
          success: Answer,
          effects: "atMostOnce",
          reconcile: Effect.sync(() =>
            world.acts.has(place) ? Checkpoint.happened<Answer>(place) : Checkpoint.notHappened
          )
        },
        Effect.sleep(node.delay).pipe(Effect.andThen(did), Effect.andThen(Effect.sleep(node.delay)), Effect.as(place))
      )
    }
    case "Flaky":
      return Checkpoint.step(
        node.name,
        { success: Answer },
        Effect.suspend(() => {
          if (world.asked.has(place)) return Effect.succeed(place)
          world.asked.add(place)
          return Effect.fail(new Down())
        })
      ).pipe(
        Effect.catchTag(
          "Down",
          () => Checkpoint.step("instead", { success: Answer }, Effect.succeed(`${place} instead`))
        )
      )
    case "Nest":
      return Checkpoint.step(node.name, { success: Answer }, interpretAll(world, node.body, `${place}/`))
    case "Within":
      return Checkpoint.within(node.name)(interpretAll(world, node.body, `${place}/`))
    case "Group":
      return Checkpoint.forEach(
        node.branches,
        (branch, index) => interpretAll(world, branch, `${place}[${index}]`),
        { concurrency: 2 }
      )
  }
}

const interpretAll = (world: World, nodes: ReadonlyArray<Node>, place: string): Run =>
  Effect.forEach(nodes, (node, index) => interpret(world, node, `${place}${index}`))

const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(1)
  return yield* Fiber.join(fiber)
})

/** A failure that was handled and not remembered may be gone by now: the program goes one way or the other. */
const withoutWay = (answer: Answer): Answer =>
  typeof answer === "string" ? answer.replace(/ instead$/, "") : answer.map(withoutWay)

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

const Cuts = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 8 }))).check(Schema.isMaxLength(4))

/** Random programs, cut off at random, on a store that holds nothing. */
export const suite = (
  name: string,
  layer: Layer.Layer<CheckpointStore.CheckpointStore>,
  options: {
    readonly runs: number
    readonly around?: <A, E, R>(story: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  }
) => {
  const around = options.around ?? identity
  it.effect.prop(
    `Checkpoint on ${name}: any program, cut off any number of times, ends as if it had not been`,
    [Program, Cuts],
    ([nodes, cuts]) =>
      around(
        Effect.gen(function*() {
          const store = yield* CheckpointStore.CheckpointStore
          const undisturbed = yield* inVirtualTime(
            interpretAll({ acts: new Map(), asked: new Set() }, nodes, "").pipe(Checkpoint.run({ id: "undisturbed" }))
          )
          const world: World = { acts: new Map(), asked: new Set() }
          const program = interpretAll(world, nodes, "").pipe(Checkpoint.run({ id: "r" }))
          for (const records of cuts) {
            const result = yield* inVirtualTime(
              Effect.result(Effect.provideService(program, CheckpointStore.CheckpointStore, cut(store, records)))
            )
            if (Result.isFailure(result)) assert.strictEqual(result.failure._tag, "CheckpointStoreError")
          }
          const result = yield* inVirtualTime(program)
          assert.deepStrictEqual(withoutWay(result), withoutWay(undisturbed))
          for (const [place, count] of world.acts) assert.strictEqual(count, 1, `${place} was done once`)
          const again = yield* inVirtualTime(program)
          assert.deepStrictEqual(withoutWay(again), withoutWay(result))
          assert.deepStrictEqual(yield* inVirtualTime(program), again)
        }).pipe(Effect.provide(Layer.fresh(layer)))
      ),
    { arbitrary: { runs: options.runs, seed: 1 } }
  )
}
