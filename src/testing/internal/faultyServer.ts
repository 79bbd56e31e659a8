import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as loopback from "./loopback.ts"
import type { Reply } from "./reply.ts"
import * as requestHistory from "./requestHistory.ts"
import { identifier, uniform } from "./seeded.ts"

/** @internal */
export interface Arrival {
  readonly exchange: loopback.Exchange
  readonly index: number
  readonly requestId: string
  readonly attemptOf: number | undefined
  readonly millisSinceStart: number
  readonly json: Result.Result<unknown, unknown>
}

/** @internal */
export interface Planned {
  readonly planned: Reply
  /** Counts as answered when it was sent whole. */
  readonly healthy: boolean
}

/** @internal */
export interface Log<Tag extends string> {
  readonly index: number
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly attemptOf: number | undefined
  readonly fault: Tag | undefined
  readonly completed: boolean
  readonly closedByClient: boolean
  readonly cutByServer: boolean
}

/** @internal */
export interface Options<Tag extends string, Fault extends { readonly _tag: Tag }, Request> {
  readonly port: number
  readonly history: number
  readonly seed: number | string
  readonly faults: ReadonlyArray<Fault> | ((request: Request) => Fault | undefined) | undefined
  readonly noneInjected: Record<Tag, number>
  /** What is to be done with a request; the fault is asked for once, or not at all where the request itself is wrong. */
  readonly decide: (
    arrival: Arrival,
    faultFor: (request: Request) => Fault | undefined
  ) => { readonly fault: Fault | undefined; readonly plan: Effect.Effect<Planned> }
  readonly headers: (requestId: string, nowMillis: number) => Readonly<Record<string, string>>
  readonly broken: (message: string) => Reply
}

const decodeJson = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Unknown))

/** @internal */
export interface Latency {
  readonly min: number
  readonly max: number
}

/**
 * The same reply, later by a time that depends on the seed and the index alone.
 *
 * @internal
 */
export const later = (latency: Latency, seed: number | string, reply: Reply, index: number): Reply => ({
  ...reply,
  delayMillis: reply.delayMillis + latency.min + (latency.max - latency.min) * uniform(seed, index, "latency")
})

/**
 * A server on loopback that meets each request with a fault or with none, and remembers what became of it.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*<Tag extends string, Fault extends { readonly _tag: Tag }, Request>(
  options: Options<Tag, Fault, Request>
) {
  const startedAt = yield* Clock.currentTimeMillis
  const queue: Array<Fault> = []
  let rule: ((request: Request) => Fault | undefined) | undefined
  if (typeof options.faults === "function") rule = options.faults
  else queue.push(...options.faults ?? [])

  const history = requestHistory.make<Log<Tag>>(options.history)
  const counts = { requests: 0, answered: 0, closedByClient: 0, injected: options.noneInjected }

  const faultFor = (request: Request): Fault | undefined => {
    const fault = queue.shift() ?? rule?.(request)
    if (fault !== undefined) counts.injected[fault._tag] += 1
    return fault
  }

  const handle = Effect.fnUntraced(function*(exchange: loopback.Exchange) {
    const millisSinceStart = (yield* Clock.currentTimeMillis) - startedAt
    const index = history.nextIndex()
    counts.requests += 1
    const requestId = identifier("req", options.seed, index, "request")
    const text = exchange.text ?? ""
    const json = decodeJson(text)
    const attemptOf = text === "" ? undefined : history.repeated(text, index)
    // as an exit, so that a request whose rule throws is in the log all the same
    const decided = yield* Effect.exit(
      Effect.sync(() => options.decide({ exchange, index, requestId, attemptOf, millisSinceStart, json }, faultFor))
    )
    let healthy = false
    history.add({
      index,
      method: exchange.method,
      path: exchange.path,
      headers: exchange.headers,
      body: Result.getOrElse(json, () => text),
      attemptOf,
      fault: Exit.isSuccess(decided) ? decided.value.fault?._tag : undefined,
      completed: false,
      closedByClient: false,
      cutByServer: false
    })
    exchange.onOutcome((outcome) => {
      if (outcome === "completed" && healthy) counts.answered += 1
      if (outcome === "closedByClient") counts.closedByClient += 1
      history.update(index, { [outcome]: true })
    })
    const planned = yield* (yield* decided).plan
    healthy = planned.healthy
    const now = yield* Clock.currentTimeMillis
    yield* exchange.send(planned.planned, options.headers(requestId, now))
  })

  yield* Effect.addFinalizer(() => Effect.sync(history.close))
  const port = yield* loopback.listen(options.port, handle, options.broken)
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    inject: (...faults: ReadonlyArray<Fault>) => Effect.sync((): void => void queue.push(...faults)),
    setFaults: (next: ((request: Request) => Fault | undefined) | undefined) =>
      Effect.sync((): void => {
        rule = next
      }),
    requests: Effect.sync(history.all),
    awaitRequest: (index: number) => history.wait(index, () => true),
    awaitClosedByClient: (index: number) =>
      history.wait(index, ({ closedByClient, completed, cutByServer }) => {
        if (completed) return "it was answered whole before its client could leave"
        return cutByServer ? "the server itself cut its connection" : closedByClient
      }),
    stats: Effect.sync(() => ({ ...counts, injected: { ...counts.injected } }))
  }
})
