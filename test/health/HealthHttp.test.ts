import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Metric } from "effect"
import { HealthCheck, HealthMonitor } from "effect-resilience"
import * as HealthHttp from "effect-resilience/health/HealthHttp"
import { FetchHttpClient, HttpClient, HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { TestClock, TestConsole } from "effect/testing"
import { createServer } from "node:http"

const Loopback = HttpServer.layerTestClient.pipe(
  Layer.provide(FetchHttpClient.layer),
  Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" }))
)

/** A server on loopback, and what it answers to a GET. */
const served = <E = never>(
  monitor: HealthMonitor.HealthMonitor["Service"],
  options?: HealthHttp.Options,
  others: Layer.Layer<never, E, HttpRouter.HttpRouter> = Layer.empty
) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(
      HttpRouter.serve(Layer.merge(HealthHttp.layer(options), others), { disableListenLog: true, disableLogger: true })
        .pipe(
          Layer.provideMerge(Loopback),
          Layer.provide(Layer.succeed(HealthMonitor.HealthMonitor, monitor))
        )
    )
    const client = Context.get(context, HttpClient.HttpClient)
    return (path: string) =>
      Effect.gen(function*() {
        const response = yield* client.get(path)
        const text = yield* response.text
        const isJson = response.headers["content-type"]?.startsWith("application/json")
        return {
          status: response.status,
          headers: response.headers,
          text,
          body: isJson === true ? JSON.parse(text) : undefined
        }
      })
  })

const own = Effect.provideService(Metric.MetricRegistry, new Map())

const failures = (monitor: HealthMonitor.HealthMonitor["Service"]) =>
  Effect.repeat(monitor.record("search", { outcome: "failure", latency: 1_500 }), { times: 9 })

describe("HealthHttp, over a server on loopback", () => {
  it.effect("/health/live is 200 as long as the process answers, however bad its health", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const get = yield* served(monitor)
      yield* failures(monitor)
      assert.strictEqual((yield* monitor.snapshot).status, "critical")
      const { body, headers, status } = yield* get("/health/live")
      assert.deepStrictEqual([status, body, headers["cache-control"]], [200, { status: "live" }, "no-store"])
    }))

  it.effect("/health/ready is 503 until every check has had a result, 200 then, and 503 while critical", () =>
    Effect.gen(function*() {
      let result = HealthCheck.healthy("fine")
      const check = Effect.andThen(Effect.sleep("1 second"), Effect.sync(() => result))
      const monitor = yield* HealthMonitor.make({ checks: [HealthCheck.make("store", check)] })
      const get = yield* served(monitor)
      const starting = yield* get("/health/ready")
      assert.deepStrictEqual([starting.status, starting.body.pending], [503, ["store"]])
      assert.deepInclude(starting.body, { status: "pending", message: "waiting for the first result of: store" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* get("/health/ready")).status, 200)
      result = HealthCheck.degraded("slow disk")
      yield* TestClock.adjust("1 minute")
      const degraded = yield* get("/health/ready")
      assert.deepStrictEqual([degraded.status, degraded.body.status], [200, "degraded"])
      result = HealthCheck.critical("disk full")
      yield* TestClock.adjust("1 minute")
      const { body, headers, status } = yield* get("/health/ready")
      assert.deepStrictEqual([status, headers["cache-control"]], [503, "no-store"])
      assert.deepInclude(body, { status: "critical", message: "store: disk full", pending: [] })
      assert.deepInclude(body.checks[0], { name: "store", status: "critical", message: "disk full", tookMillis: 1_000 })
      result = HealthCheck.healthy("fine")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* get("/health/ready")).status, 200)
    }))

  it.effect("/health/ready tells no text of an error and no details, which may be secrets", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        checks: [
          HealthCheck.reachable("db", Effect.fail(new Error("password=hunter2"))),
          HealthCheck.make("dies", Effect.die(new Error("password=hunter2"))),
          HealthCheck.make("details", Effect.succeed(HealthCheck.degraded("late", { token: "hunter2" })))
        ]
      })
      yield* monitor.check
      const { body, text } = yield* (yield* served(monitor))("/health/ready")
      assert.lengthOf(body.checks, 3)
      assert.notInclude(text, "hunter2")
    }))

  it.effect("/health/ready tells of the keys that are not healthy, and of no more than 100", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const get = yield* served(monitor)
      yield* monitor.record("fine", { outcome: "success", latency: 1 })
      yield* monitor.record("slow", { outcome: "success", latency: "10 seconds" })
      const few = yield* get("/health/ready")
      assert.deepStrictEqual(few.body.keys.map((key: { readonly key: string }) => key.key), ["slow"])
      for (let n = 0; n < 500; n++) yield* monitor.record(`key ${n}`, { outcome: "failure", latency: 1 })
      const many = yield* get("/health/ready")
      assert.lengthOf(many.body.keys, 100)
      assert.isBelow(many.text.length, 40_000)
      assert.match(many.body.message, /and 491 more$/)
    }))

  it.effect("the router writes no log line about a request for one of them", () =>
    Effect.gen(function*() {
      const Served = HttpRouter.serve(
        Layer.merge(HealthHttp.layer(), HttpRouter.add("GET", "/other", HttpServerResponse.text("other"))),
        { disableListenLog: true }
      ).pipe(Layer.provideMerge(Loopback), Layer.provide(HealthMonitor.layer()))
      const client = Context.get(yield* Layer.build(Served), HttpClient.HttpClient)
      for (const path of ["/health/live", "/health/ready", "/metrics"]) yield* client.get(path)
      assert.deepStrictEqual(yield* TestConsole.logLines, [])
      yield* client.get("/other")
      assert.lengthOf(yield* TestConsole.logLines, 1)
    }).pipe(own, Effect.provide(Layer.provideMerge(Logger.layer([Logger.consoleJson]), TestConsole.layer))))

  it.effect("/health/ready runs no check", () =>
    Effect.gen(function*() {
      let runs = 0
      const monitor = yield* HealthMonitor.make({ checks: [HealthCheck.reachable("check", Effect.sync(() => runs++))] })
      yield* TestClock.adjust(0)
      const get = yield* served(monitor)
      yield* Effect.repeat(get("/health/ready"), { times: 4 })
      assert.strictEqual(runs, 1)
    }))

  it.effect("/metrics has the health as it is now, in Prometheus' format", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const get = yield* served(monitor)
      yield* failures(monitor)
      const bad = yield* get("/metrics")
      assert.strictEqual(bad.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
      assert.include(
        bad.text,
        "# TYPE effect_resilience_health_status gauge\neffect_resilience_health_status{key=\"search\"} 3\n"
      )
      assert.include(bad.text, "effect_resilience_health_gate_closed{key=\"search\"} 1\n")
      assert.include(bad.text, "effect_resilience_health_keys{status=\"critical\"} 1\n")
      yield* TestClock.adjust("6 minutes")
      assert.include((yield* get("/metrics")).text, "effect_resilience_health_status{key=\"search\"} 0\n")
    }).pipe(own))

  it.effect("stands beside other routes, on paths of one's own, or without some", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const get = yield* served(
        monitor,
        { live: "/livez", ready: "/readyz", metrics: false, prefix: "app" },
        HttpRouter.add("GET", "/", HttpServerResponse.text("hello"))
      )
      const statuses = yield* Effect.forEach(
        ["/", "/livez", "/readyz", "/metrics", "/health/live"],
        (path) => Effect.map(get(path), ({ status }) => status)
      )
      assert.deepStrictEqual(statuses, [200, 200, 200, 404, 404])
    }))

  it.effect("puts the prefix before every name", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const get = yield* served(monitor, { prefix: "app" })
      const lines = (yield* get("/metrics")).text.split("\n").filter((line) => line !== "" && !line.startsWith("#"))
      assert.isAbove(lines.length, 0)
      for (const line of lines) assert.match(line, /^app_/)
    }).pipe(own))
})
