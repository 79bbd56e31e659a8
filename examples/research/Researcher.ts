/**
 * An agent that answers a question from the sources. Each claim of its report says where it comes from, by what was really
 * found and not by what the model says of it; what nobody found is no claim; and the gaps are part of the report.
 */
import { Context, type Duration, Effect, Schema } from "effect"
import { Agent, Backoff, Checkpoint, CircuitBreaker, type Fallback, Fault, Policy } from "effect-resilience"
import { Tool, Toolkit } from "effect/ai"
import { HttpClient } from "effect/http"
import * as Sources from "./Sources.ts"

/** No source answers at all. */
export class NothingFound extends Schema.TaggedError<NothingFound>("research/NothingFound")("NothingFound", {
  query: Schema.String,
  problem: Schema.String,
  verdict: Fault.Verdict
}) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
  override get message() {
    return `no source answers to "${this.query}": ${this.problem}`
  }
}

export const tools = Toolkit.make(
  Tool.make("search", {
    description: "Searches all sources at once. Says what each found, and which are unavailable and why.",
    parameters: Schema.Struct({ query: Schema.NonEmptyString }),
    success: Sources.Findings,
    failure: NothingFound
  }).annotate(Tool.Readonly, true)
)

export const toolsLayer = (patience?: Sources.Patience) => {
  const searchAll = Sources.make(patience)
  return tools.toLayer(Effect.gen(function*() {
    // These services and nothing else of what is around here: the clock, say, is that of the run.
    const services = Context.pick(HttpClient.HttpClient, Sources.Addresses, CircuitBreaker.CircuitBreaker)(
      yield* Effect.context<HttpClient.HttpClient | Sources.Addresses | CircuitBreaker.CircuitBreaker>()
    )
    return tools.of({
      search: ({ query }) =>
        searchAll(query).pipe(
          Effect.catch((error) =>
            Effect.flatMap(
              Fault.classify(error),
              (verdict) => Effect.fail(new NothingFound({ query, problem: error.message, verdict }))
            )
          ),
          Effect.provideContext(services)
        )
    })
  }))
}

export const instructions =
  "You answer questions from the sources that the tool searches, and from nothing else. Each " +
  "claim names the url of the finding that it rests on."

/** What the model is asked for. */
export const Draft = Schema.Struct({
  claims: Schema.Array(Schema.Struct({ text: Schema.NonEmptyString, url: Schema.String }))
})

export interface Claim {
  readonly text: string
  readonly url: string
  /** The source that was asked, and who answered for it. */
  readonly source: string
  readonly via: string
  /** Whether it is second best: somebody stood in for the source. */
  readonly degraded: boolean
}

export interface Report {
  readonly question: string
  readonly claims: ReadonlyArray<Claim>
  /** What the model said without a finding to rest on. */
  readonly unfounded: ReadonlyArray<string>
  /** The sources that did not answer, and why. */
  readonly unavailable: ReadonlyArray<Fallback.FailedStep>
}

/** The record of a search that worked, in the journal of an agent's run. */
const isSearch = Schema.is(Schema.Struct({ isFailure: Schema.Literal(false), result: Schema.Unknown }))
const decodeFindings = Schema.decodeUnknownEffect(Schema.toCodecJson(Sources.Findings))

/** What the searches of a run found, from its journal: also those of a process that is gone. */
const findingsOf = Effect.fnUntraced(function*(runId: string) {
  const { records } = yield* Checkpoint.inspect(runId)
  return yield* Effect.forEach(
    records.flatMap(({ kind, step, value }) =>
      kind === "StepSucceeded" && step.endsWith("/search") && isSearch(value) ? [value.result] : []
    ),
    (result) => decodeFindings(result)
  )
})

export const make = (options: { readonly base?: Duration.Input | undefined } = {}) => {
  const model = Policy.make({
    name: "model",
    idempotent: true,
    retry: { backoff: Backoff.fullJitter({ base: options.base ?? "1 second" }), maxAttempts: 8 }
  })
  const agent = Agent.make({
    name: "researcher",
    instructions,
    toolkit: tools,
    result: Draft,
    policies: { model: Policy.apply(model) }
  })

  return Effect.fn("research.answer")(function*(question: string) {
    const runId = `research ${question}`
    const { value } = yield* Agent.run(agent, { runId, prompt: question })
    const findings = yield* findingsOf(runId)
    const found = new Map(
      findings.flatMap(({ available }) =>
        Object.entries(available).flatMap(([source, { degraded, source: via, value }]) =>
          value.map(({ url }) => [url, { source, via, degraded }] as const)
        )
      )
    )
    const drafted = value?.claims ?? []
    const report: Report = {
      question,
      claims: drafted.flatMap(({ text, url }) => {
        const provenance = found.get(url)
        return provenance === undefined ? [] : [{ text, url, ...provenance }]
      }),
      unfounded: drafted.flatMap(({ text, url }) => found.has(url) ? [] : [text]),
      unavailable: findings.flatMap(({ unavailable }) => unavailable)
    }
    return report
  })
}
