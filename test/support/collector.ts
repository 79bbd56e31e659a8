import { NodeHttpServer } from "@effect/platform-node"
import { Effect, Layer, Schema } from "effect"
import { FetchHttpClient, HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Otlp } from "effect/observability"
import { createServer } from "node:http"

const Value = Schema.Struct({
  stringValue: Schema.optional(Schema.NullOr(Schema.String)),
  boolValue: Schema.optional(Schema.NullOr(Schema.Boolean)),
  intValue: Schema.optional(Schema.NullOr(Schema.Union([Schema.Number, Schema.String]))),
  doubleValue: Schema.optional(Schema.NullOr(Schema.Number))
})

const Attributes = Schema.Array(Schema.Struct({ key: Schema.String, value: Value }))

const Exported = Schema.Struct({
  resourceSpans: Schema.Array(Schema.Struct({
    scopeSpans: Schema.Array(Schema.Struct({
      spans: Schema.Array(Schema.Struct({
        spanId: Schema.String,
        parentSpanId: Schema.optional(Schema.String),
        name: Schema.String,
        attributes: Attributes,
        events: Schema.Array(Schema.Struct({ name: Schema.String, attributes: Attributes })),
        status: Schema.Struct({ code: Schema.Number, message: Schema.optional(Schema.String) })
      }))
    }))
  }))
})

/** A span as a collector gets it, its attributes as a record. */
export interface Collected {
  readonly id: string
  readonly parent: string | undefined
  readonly name: string
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<{ readonly name: string; readonly attributes: Readonly<Record<string, unknown>> }>
  readonly status: number
}

const record = (attributes: typeof Attributes.Type): Record<string, unknown> =>
  Object.fromEntries(attributes.map(({ key, value }) => [
    key,
    value.stringValue ?? value.boolValue ?? (value.intValue === undefined ? value.doubleValue : Number(value.intValue))
  ]))

/** Runs an effect with an OTLP exporter, and gives what a collector on loopback has received of it, by path. */
export const collected = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const bodies: Array<{ readonly path: string; readonly body: string }> = []
    const routes = HttpRouter.add(
      "POST",
      "/v1/*",
      Effect.gen(function*() {
        const request = yield* HttpServerRequest.HttpServerRequest
        bodies.push({ path: request.url, body: yield* request.text })
        return HttpServerResponse.empty({ status: 200 })
      })
    )
    const server = HttpRouter.serve(routes, { disableListenLog: true, disableLogger: true }).pipe(
      Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" }))
    )
    const result = yield* Effect.gen(function*() {
      const { address } = yield* HttpServer.HttpServer
      if (address._tag === "UnixPathAddress") return yield* Effect.die("no TCP")
      const exporter = Otlp.layerJson({
        baseUrl: `http://127.0.0.1:${address.port}`,
        resource: { serviceName: "test" }
      }).pipe(Layer.provide(FetchHttpClient.layer))
      // Closing the exporter sends what is left.
      return yield* Effect.exit(Effect.provide(self, exporter))
    }).pipe(Effect.provide(server))
    return { result, bodies }
  })

/** The spans among what was received. */
export const spansOf = (
  bodies: ReadonlyArray<{ readonly path: string; readonly body: string }>
): Effect.Effect<ReadonlyArray<Collected>, Schema.SchemaError> =>
  Effect.map(
    Effect.forEach(
      bodies.filter(({ path }) => path.endsWith("/v1/traces") || path.endsWith("/traces")),
      ({ body }) => Schema.decodeEffect(Schema.fromJsonString(Exported))(body)
    ),
    (exported) =>
      exported.flatMap(({ resourceSpans }) =>
        resourceSpans.flatMap(({ scopeSpans }) =>
          scopeSpans.flatMap(({ spans }) =>
            spans.map(({ attributes, events, name, parentSpanId, spanId, status }) => ({
              id: spanId,
              parent: parentSpanId,
              name,
              attributes: record(attributes),
              events: events.map((event) => ({ name: event.name, attributes: record(event.attributes) })),
              status: status.code
            }))
          )
        )
      )
  )

/** The names of the spans as a tree, in the order in which they were begun as far as their parents say. */
export const treeOf = (spans: ReadonlyArray<Collected>): ReadonlyArray<string> => {
  const lines: Array<string> = []
  const add = (parent: string | undefined, indent: string): void => {
    for (const span of spans) {
      if (span.parent !== parent) continue
      lines.push(`${indent}${span.name}`)
      add(span.id, `${indent}  `)
    }
  }
  add(undefined, "")
  return lines
}
