/**
 * The health of a process over HTTP: `/health/live`, `/health/ready` and `/metrics`.
 *
 * **When to use**
 *
 * Use it where an orchestrator or a load balancer asks whether to send work here, and Prometheus for the metrics.
 *
 * **Details**
 *
 * This module needs effect/http, whose API is not stable yet, and is reached by its subpath only.
 *
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { withLoggerDisabled } from "effect/http/HttpMiddleware"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type * as Layer from "effect/Layer"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as HealthMonitor from "./HealthMonitor.ts"
import { defaults as paths } from "./internal/httpPaths.ts"

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * - `live`, `ready`, `metrics`: the paths, default `/health/live`, `/health/ready` and `/metrics`; `false` for no route.
 * - `prefix`: what the name of every metric begins with; default nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly live?: HttpRouter.PathInput | false | undefined
  readonly ready?: HttpRouter.PathInput | false | undefined
  readonly metrics?: HttpRouter.PathInput | false | undefined
  readonly prefix?: string | undefined
}

const maxKeys = 100

const headers = { "cache-control": "no-store" }

// What the checks say in their messages is for everybody; their details, which may tell an error, are not.
const bodyOf = (report: HealthMonitor.Report) => ({
  status: report.status !== "critical" && report.pending.length > 0 ? "pending" : report.status,
  message: report.message,
  at: DateTime.formatIso(report.at),
  pending: report.pending,
  checks: report.checks.map(({ checkedAt, key, message, name, since, status, took }) => ({
    name,
    key,
    status,
    message,
    since: DateTime.formatIso(since),
    checkedAt: DateTime.formatIso(checkedAt),
    tookMillis: Math.round(Duration.toMillis(took))
  })),
  keys: report.keys.filter(({ gate, status }) => status !== "healthy" || gate !== "open").slice(0, maxKeys).map((
    { calls, errorRate, gate, key, message, since, status }
  ) => ({
    key,
    status,
    message,
    since: DateTime.formatIso(since),
    calls,
    errorRate,
    gate
  }))
})

/**
 * Adds the routes to a router.
 *
 * **Details**
 *
 * - `GET /health/live` is 200 as long as the process answers: nothing is looked at.
 * - `GET /health/ready` is 200, or 503 while the health of the whole is `critical` or a check has not had its first
 *   result. The body tells in JSON the status and the message of the whole, of each check and of at most 100 of the keys that
 *   are not healthy or whose gate is not open. It tells what the checks last said, and runs none. Until each of them has
 *   had a result the status of the whole is `"pending"`, and the message names those that are waited for.
 * - `GET /metrics` has all metrics of Effect in Prometheus' text format, with the gauges of the health as it is now:
 *   `effect_resilience_health_status{key}` (0 healthy, 1 slow, 2 degraded, 3 critical),
 *   `effect_resilience_health_gate_closed{key}` and `effect_resilience_health_keys{status}`.
 *
 * The router writes no log lines about these requests, which come every few seconds. A span it does make, where there is a
 * tracer; `HttpMiddleware.layerTracerDisabledForUrls` of effect/http, provided to the server, leaves it out.
 *
 * **Gotchas**
 *
 * Nobody is asked who they are. The messages of checks, the names of keys and all metrics are shown to whoever reaches
 * the port: keep it inside.
 *
 * **Example** (Serving the health of a process)
 *
 * ```ts import.meta.vitest
 * import { NodeHttpServer } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import { HealthMonitor } from "effect-resilience"
 * import * as HealthHttp from "effect-resilience/health/HealthHttp"
 * import { HttpMiddleware, HttpRouter } from "effect/http"
 * import { createServer } from "node:http"
 *
 * export const Live = HttpRouter.serve(HealthHttp.layer()).pipe(
 *   Layer.provide([
 *     HealthMonitor.layer(),
 *     NodeHttpServer.layer(createServer, { port: 8080 }),
 *     HttpMiddleware.layerTracerDisabledForUrls(["/health/live", "/health/ready", "/metrics"]) // no spans of these
 *   ])
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options = {}
): Layer.Layer<never, never, HttpRouter.HttpRouter | HealthMonitor.HealthMonitor> =>
  HttpRouter.use((router) =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.HealthMonitor
      const { live = paths.live, metrics = paths.metrics, prefix, ready = paths.ready } = options
      if (live !== false) {
        const response = Effect.succeed(HttpServerResponse.jsonUnsafe({ status: "live" }, { headers }))
        yield* router.add("GET", live, withLoggerDisabled(response))
      }
      if (ready !== false) {
        yield* router.add(
          "GET",
          ready,
          withLoggerDisabled(Effect.map(monitor.snapshot, (report) => {
            const isReady = report.status !== "critical" && report.pending.length === 0
            return HttpServerResponse.jsonUnsafe(bodyOf(report), { status: isReady ? 200 : 503, headers })
          }))
        )
      }
      if (metrics !== false) {
        yield* router.add(
          "GET",
          metrics,
          // Looked at before it is told: what has not been called for a while has no other occasion to get better.
          Effect.andThen(monitor.snapshot, PrometheusMetrics.format({ prefix })).pipe(
            Effect.map((body) =>
              HttpServerResponse.text(body, { contentType: "text/plain; version=0.0.4; charset=utf-8", headers })
            ),
            withLoggerDisabled
          )
        )
      }
    })
  )
