/**
 * How the hosts behave, whatever carries their answers: the library is down, its mirror answers garbage on some days, the
 * news are rate limited, the first answer of the statistics takes very long, the forum sends a page of HTML, and the
 * patent office has been down for weeks.
 */
import { Clock, type Duration, Effect, Random } from "effect"
import { type Host, hosts } from "./Sources.ts"

export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export interface Request {
  readonly host: Host
  readonly atMillis: number
}

export interface Pace {
  /** What the news ask for, in seconds. */
  readonly retryAfter: number
  /** How long the slow answer takes. */
  readonly slow: Duration.Input
  /** How long every other answer takes. */
  readonly usual: Duration.Input
}

/** These take no connection. */
export const down: ReadonlySet<Host> = new Set(["library", "patents"])

const json = (status: number, body: unknown, headers: Reply["headers"] = {}): Reply => ({
  status,
  headers: { "content-type": "application/json", ...headers },
  body: JSON.stringify(body)
})

const page: Reply = {
  status: 200,
  headers: { "content-type": "text/html" },
  body: "<html><body>Log in to read on</body></html>"
}

/** The hosts of one story. `mirrorSpoilt` and the number of refusals of the news are drawn by the seed. */
export const make = Effect.fnUntraced(function*(seed: number, { retryAfter, slow, usual }: Pace) {
  const requests: Array<Request> = []
  const drawn = yield* Random.withSeed(Effect.all([Random.nextBoolean, Random.nextIntBetween(1, 2)]), seed)
  const [mirrorSpoilt, refusals] = drawn

  const found = (host: Host, query: string): Reply =>
    json(200, {
      results: [1, 2].map((n) => ({
        title: `${query}, ${host} ${n}`,
        url: `https://${host}.example/${n}`,
        text: `What the ${host} has on ${query}, part ${n}.`
      }))
    })

  const answerOf = (host: Host, query: string, before: number): Reply => {
    if (host === "forum") return page
    if (host === "mirror" && mirrorSpoilt) return page
    if (host === "news" && before < refusals) {
      return json(429, { error: "slow down" }, { "retry-after": String(retryAfter) })
    }
    return found(host, query)
  }

  return {
    mirrorSpoilt,
    refusals,
    /** What came in, refused connections included. */
    requests: Effect.sync((): ReadonlyArray<Request> => requests.slice()),
    note: (host: Host) =>
      Effect.map(Clock.currentTimeMillis, (atMillis) => {
        const before = requests.filter((one) => one.host === host).length
        requests.push({ host, atMillis })
        return before
      }),
    reply: (host: Host, query: string, before: number): Effect.Effect<Reply> =>
      Effect.as(
        Effect.sleep(host === "statistics" && before === 0 ? slow : usual),
        answerOf(host, query, before)
      )
  }
})

export type Web = Effect.Success<ReturnType<typeof make>>

export const addresses = (of: (host: Host) => string): Readonly<Record<Host, string>> => {
  const [library, mirror, news, statistics, forum, patents] = hosts
  return {
    library: of(library),
    mirror: of(mirror),
    news: of(news),
    statistics: of(statistics),
    forum: of(forum),
    patents: of(patents)
  }
}
