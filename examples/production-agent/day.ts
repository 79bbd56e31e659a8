/** A bad hour of the assistant, minute by minute, told as it goes. */
import { Clock, Console, Duration, Effect, Layer, Schema } from "effect"
import { Agent, CheckpointStore } from "effect-resilience"
import { answer, type Question, Vouchers } from "./Assistant.ts"

/** In minutes since the beginning. */
export interface Plan {
  readonly minutes: number
  readonly everySeconds: number
  /** The first model is down, and from when to when the second one is, too. */
  readonly firstDown: readonly [number, number]
  readonly secondDown: readonly [number, number]
  readonly storeDown: readonly [number, number]
}

export const hour: Plan = {
  minutes: 60,
  everySeconds: 20,
  firstDown: [10, 35],
  secondDown: [20, 35],
  storeDown: [40, 45]
}

/** The same in short, for a clock that runs fast. */
export const quarter: Plan = {
  minutes: 15,
  everySeconds: 20,
  firstDown: [3, 9],
  secondDown: [5, 9],
  storeDown: [11, 12.5]
}

/** What is down, told from the time since it was made. */
export interface Outages {
  readonly isDown: (what: "firstDown" | "secondDown" | "storeDown") => Effect.Effect<boolean>
}

export const outages = (plan: Plan): Effect.Effect<Outages> =>
  Effect.map(Clock.currentTimeMillis, (began) => ({
    isDown: (what) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const minute = (now - began) / 60_000
        const [from, to] = plan[what]
        return from <= minute && minute < to
      })
  }))

/** The journal of the stores, which cannot be opened while it is down. */
export const failing = (down: Outages) =>
  Layer.effect(
    CheckpointStore.CheckpointStore,
    Effect.map(CheckpointStore.CheckpointStore, (store) => ({
      ...store,
      acquire: (...args: Parameters<typeof store.acquire>) =>
        Effect.flatMap(down.isDown("storeDown"), (isDown) =>
          isDown
            ? Effect.fail(
              new CheckpointStore.CheckpointStoreError({
                operation: "acquire",
                reason: { _tag: "Unavailable", cause: new Error("connection refused") }
              })
            )
            : store.acquire(...args))
    }))
  )

const questionAt = (n: number): Question => {
  switch (n % 4) {
    case 0:
      return { id: String(n), kind: "order", text: `Where is my order H-${100 + n % 8}?` }
    case 1:
      return { id: String(n), kind: "other", text: "When are you open?" }
    case 2:
      return { id: String(n), kind: "complaint", text: `The cup of order H-${200 + n} is broken.` }
    default:
      return { id: String(n), kind: "order", text: `Is order H-${300 + n} on its way?` }
  }
}

const letters = {
  agent: "A",
  "last good": "L",
  simplified: "S",
  template: "T",
  emergency: "E"
} as const

class DoesNotAddUp extends Schema.TaggedError<DoesNotAddUp>("production-agent/DoesNotAddUp")("DoesNotAddUp", {
  what: Schema.String
}) {
  override get message() {
    return `the sums do not add up: ${this.what}`
  }
}

/** Everybody who asks, one after the other, and what became of it. */
export const run = Effect.fnUntraced(function*(plan: Plan) {
  const questions = Array.from({ length: plan.minutes * 60 / plan.everySeconds }, (_, n) => questionAt(n))
  const lines = Array.from({ length: Math.ceil(plan.minutes / 5) }, () => "")
  const asked = yield* Effect.forEach(
    questions,
    (question, index) =>
      Effect.gen(function*() {
        yield* Effect.sleep(Duration.seconds(index * plan.everySeconds))
        const ended = yield* Effect.result(answer(question))
        const letter = ended._tag === "Success" ? letters[ended.success.source] : "!"
        lines[Math.floor(index * plan.everySeconds / 300)] += letter
        return letter
      }),
    { concurrency: "unbounded" }
  )
  const metrics = yield* Agent.metrics
  const { sent } = yield* Vouchers
  yield* Console.log("A the agent, L its last good answer, S asked for less, T template, E emergency, ! nothing")
  for (const [index, line] of lines.entries()) yield* Console.log(`${String(index * 5).padStart(3)} min  ${line}`)
  const { answerRate, failed, fallbackUses, health, sources, successful, total } = metrics
  yield* Console.log(
    `${total} asked, ${successful} answered (${
      ((answerRate ?? 0) * 100).toFixed(0)
    } %), ${fallbackUses} not by the agent: ` +
      Object.entries(sources).map(([source, count]) => `${count} ${source}`).join(", ") +
      `; ${failed} without an answer; ${sent.length} vouchers; at the end it is ${health.status}`
  )
  if (total !== questions.length || asked.length !== total) {
    return yield* new DoesNotAddUp({ what: `${questions.length} asked, ${total} counted` })
  }
  if (new Set(sent).size !== sent.length) return yield* new DoesNotAddUp({ what: "a voucher was sent twice" })
  return { letters: asked.join(""), metrics, sent }
})
