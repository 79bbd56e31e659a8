/**
 * The concierge of a hotel: an agent of Letta that remembers its guests. It is asked only while its memory is intact, each
 * message reaches it once whatever becomes of the connection, and when it cannot be had a template answers.
 */
import { type Duration, Effect, Stream } from "effect"
import { Fallback, Policy } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import * as Backoff from "effect-resilience/policy/Backoff"

export interface Question {
  readonly id: string
  readonly guest: string
  readonly text: string
}

export interface Reply {
  readonly question: Question
  readonly by: "concierge" | "template" | "closed"
  readonly text: string
  /** Why it is not the concierge that answers. */
  readonly because: string | undefined
}

export interface Options {
  readonly agentId: string
  /** What the concierge is and what it may do; the rest of its memory is its own affair. */
  readonly memory: Readonly<Record<string, Letta.MemoryExpectation>>
  readonly tools: ReadonlyArray<string>
  /** The first delay between tries. Default 1 second. */
  readonly pace?: Duration.Input | undefined
}

/** How often one turn is taken up again before the policy has to try anew. */
const resumptions = 3

const template = ({ guest }: Question) => `Dear ${guest}, we have your message and will answer it by hand.`

export const make = ({ agentId, memory, pace = "1 second", tools }: Options) => {
  const retry = { maxAttempts: 4, backoff: Backoff.fullJitter({ base: pace, cap: "20 seconds" }) }
  const asking = Policy.make({ name: "letta", deadline: "10 minutes", retry, circuit: { failures: 5 } })
  const looking = Policy.make({ name: "letta-checks", deadline: "30 seconds", retry })

  /** Where the turn goes on at Letta although nobody listens any more, it is listened to again. */
  const follow = (
    letta: Letta.Letta["Service"],
    parts: Stream.Stream<Letta.Part, Letta.LettaError>,
    left: number
  ): Stream.Stream<Letta.Part, Letta.LettaError> =>
    left === 0 ? parts : Stream.catchReasons(parts, "LettaError", {
      CutShort: ({ runId, sequence }, error) =>
        runId === null
          ? Stream.fail(error)
          : follow(letta, letta.resumeRun(runId, sequence === null ? {} : { after: sequence }), left - 1),
      // Letta has this very message from an earlier try, or works for somebody else.
      AgentBusy: ({ runId }, error) =>
        runId === null ? Stream.fail(error) : follow(letta, letta.resumeRun(runId), left - 1)
    })

  const ask = Effect.fnUntraced(function*(question: Question) {
    const letta = yield* Letta.Letta
    const message = `${question.guest} asks: ${question.text}`
    // The otid is what lets the policy send the message again: Letta knows it by that.
    const parts = letta.streamMessage(agentId, message, { otid: question.id })
    return Letta.text(yield* Stream.runCollect(follow(letta, parts, resumptions)))
  })

  const inspect = Effect.all([
    Letta.checkReachable(),
    Letta.checkMemory(agentId, memory),
    Letta.checkTools(agentId, tools)
  ])

  /** Who answers, and what. */
  const reply = Effect.fnUntraced(function*(question: Question) {
    const answer = yield* Effect.gen(function*() {
      const checks = yield* Policy.apply(inspect, looking)
      const wrong = checks.filter(({ status }) => status === "critical")
      if (wrong.length > 0) return { closed: wrong.map(({ message }) => message).join("; ") }
      return yield* Policy.apply(ask(question), asking)
    }).pipe(Fallback.orElse("template", () => Effect.succeed(template(question)), { takes: "all" }))
    const said = answer.value
    const result: Reply = typeof said === "object"
      ? { question, by: "closed", text: template(question), because: said.closed }
      : {
        question,
        by: answer.source === "primary" ? "concierge" : "template",
        text: said,
        because: answer.source === "primary" ? undefined : answer.errors.map(({ message }) => message).join("; ")
      }
    return result
  })

  return { inspect, reply }
}
