/**
 * The sources, each behind a policy of its own, and the one search over all of them: what can be had, from where, and why
 * the rest cannot.
 */
import { Context, type Duration, Effect, Schema } from "effect"
import { Backoff, Fallback, Policy } from "effect-resilience"
import { HttpClient, HttpClientResponse } from "effect/http"

export const hosts = ["library", "mirror", "news", "statistics", "forum", "patents"] as const
export type Host = (typeof hosts)[number]

/** Where the hosts are. */
export class Addresses extends Context.Service<Addresses, Readonly<Record<Host, string>>>()("research/Addresses") {}

export const Hit = Schema.Struct({ title: Schema.String, url: Schema.String, text: Schema.String })
export type Hit = typeof Hit.Type

const Hits = Schema.Array(Hit)

/** Who may answer for a source: the host of that name, or what stands in for the library. */
const Answerer = [...hosts, "snapshot"] as const

export const Findings = Schema.Struct({
  available: Schema.Record(Schema.String, Fallback.AnswerSchema(Hits, Answerer)),
  unavailable: Schema.Array(Fallback.FailedStep)
})
export type Findings = typeof Findings.Type

/** How long is waited for a host. */
export interface Patience {
  readonly base: Duration.Input
  /** The longest wait that a host may ask for. */
  readonly cap: Duration.Input
  readonly timeout: Duration.Input
  /** When a second request starts beside a slow one. */
  readonly hedgeAfter: Duration.Input
}

export const patient: Patience = { base: "1 second", cap: "30 seconds", timeout: "20 seconds", hedgeAfter: "3 seconds" }

const decode = HttpClientResponse.schemaBodyJson(Schema.Struct({ results: Hits }))

const request = Effect.fn("research.request")(function*(host: Host, query: string) {
  const client = HttpClient.filterStatusOk(yield* HttpClient.HttpClient)
  const addresses = yield* Addresses
  const response = yield* client.get(`${addresses[host]}/search`, { urlParams: { q: query } })
  return (yield* decode(response)).results
})

/** What the desk kept of the library: old, and better than nothing. */
const snapshot = (query: string): ReadonlyArray<Hit> => [
  { title: `${query}, the edition of last year`, url: "file:snapshot/1", text: "As of last year." }
]

export const make = ({ base, cap, hedgeAfter, timeout }: Patience = patient) => {
  const options = {
    name: "source",
    timeout,
    idempotent: true, // a search changes nothing
    retry: { backoff: Backoff.fullJitter({ base, cap }), maxAttempts: 4 },
    circuit: { failures: 5 }
  }
  const usual = Policy.make(options)
  // One slow answer in a while is what this host is known for.
  const hedged = Policy.make({ ...options, hedge: { delay: hedgeAfter } })
  const search = (host: Host, query: string) =>
    Policy.apply(request(host, query), Policy.keyed(host === "statistics" ? hedged : usual, host))
  const alone = (host: Host, query: string) => Fallback.primary(search(host, query), host)

  /** Asks all sources at the same time. Fails only where none of them answers. */
  return (query: string): Effect.Effect<
    Findings,
    Effect.Error<ReturnType<typeof search>>,
    Effect.Services<ReturnType<typeof search>>
  > =>
    Fallback.partial({
      library: Fallback.chain(
        Fallback.step("library", search("library", query)),
        Fallback.step("mirror", search("mirror", query)),
        Fallback.step("snapshot", Effect.succeed(snapshot(query)), { takes: "all" })
      ),
      news: alone("news", query),
      statistics: alone("statistics", query),
      forum: alone("forum", query),
      patents: alone("patents", query)
    }, { concurrency: "unbounded" })
}
