import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Metric } from "effect"
import { Agent, Backoff, CheckpointStore, EscalationQueue, Fallback, Fault } from "effect-resilience"
import { HealthMonitor, Policy, Retry, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { HttpClient, HttpRouter } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { oneOfEach } from "../support/events.ts"
import { type Family, parse } from "../support/prometheus.ts"

const down = { [Fault.verdictOf]: Fault.transient }

const emitting = (events: ReadonlyArray<Telemetry.Event>) =>
  Effect.forEach(events, (event) => Telemetry.emit(() => event), { discard: true })

/** What an effect leaves in a registry of its own, as a scraper reads it. */
const scraped = <A, E, R>(self: Effect.Effect<A, E, R>, options?: Telemetry.MetricsOptions) =>
  Effect.andThen(self, PrometheusMetrics.format()).pipe(
    Effect.map(parse),
    Effect.provide(Telemetry.layerMetrics(options)),
    Effect.provideService(Metric.MetricRegistry, new Map())
  )

const valueOf = (families: ReadonlyMap<string, Family>, name: string, labels: Readonly<Record<string, string>> = {}) =>
  families.get(name)?.samples.find((sample) =>
    Object.keys(sample.labels).length === Object.keys(labels).length &&
    Object.entries(labels).every(([label, value]) => sample.labels[label] === value)
  )?.value

const prefixed = (name: string) => `effect_resilience_${name}`

describe("Telemetry.metrics", () => {
  it.effect("are exactly those that are emitted, with their types, labels and descriptions", () =>
    Effect.gen(function*() {
      const watched = HealthMonitor.track(Effect.void, "k").pipe(
        HealthMonitor.gate("k"),
        Effect.andThen(HealthMonitor.check)
      )
      const first = Effect.succeed("ok").pipe(Fallback.orElse("other", () => Effect.succeed("no")))
      const everything = emitting(oneOfEach).pipe(
        Effect.andThen(first),
        Effect.andThen(Retry.apply(Effect.void, Retry.policy({ name: "p" }))),
        Effect.andThen(Effect.provide(EscalationQueue.measure, EscalationQueue.layerMemory)),
        Effect.andThen(Effect.provide(watched, HealthMonitor.layer()))
      )
      const families = yield* scraped(everything)
      const seen = [...families.values()].map(({ help, name, samples, type }) => ({
        name,
        type,
        description: help,
        labels: [...new Set(samples.flatMap((sample) => Object.keys(sample.labels)))].filter((label) => label !== "le")
          .toSorted()
      }))
      const listed = Telemetry.metrics.map(({ description, labels, name, type }) => ({
        name,
        type,
        description,
        labels: labels.toSorted()
      }))
      const known = new Map(Telemetry.metrics.map((metric) => [metric.name, metric.values]))
      for (const { name, samples } of families.values()) {
        for (const [label, values] of Object.entries(known.get(name) ?? {})) {
          for (const { labels } of samples) assert.include(values, labels[label], `${name}: ${label}`)
        }
      }
      const byName = (one: { readonly name: string }, other: { readonly name: string }) =>
        one.name < other.name ? -1 : 1
      assert.deepStrictEqual(seen.toSorted(byName), listed.toSorted(byName))
    }))

  it("have names, units and suffixes as Prometheus wants them", () => {
    for (const { description, labels, name, type, unit } of Telemetry.metrics) {
      assert.match(name, /^effect_resilience_[a-z]+(_[a-z]+)*$/)
      assert.strictEqual(name.endsWith("_total"), type === "counter", name)
      if (unit === "seconds") assert.isTrue(name.endsWith("_seconds"), name)
      assert.match(description, /^[A-Z1]/, name)
      assert.isTrue(labels.every((label) => /^[a-z]+$/.test(label)), name)
    }
    assert.strictEqual(new Set(Telemetry.metrics.map(({ name }) => name)).size, Telemetry.metrics.length)
  })

  it("have no label that is an id", () => {
    const labels = new Set(Telemetry.metrics.flatMap((metric) => metric.labels))
    for (const id of ["runId", "run", "sessionId", "session", "id", "callId", "step"]) {
      assert.isFalse(labels.has(id), id)
    }
  })
})

describe("Telemetry.layerMetrics", () => {
  it.effect("counts calls, attempts and retries, so that their ratio is the amplification", () =>
    Effect.gen(function*() {
      const policy = Retry.policy({ name: "search", backoff: Backoff.constant({ delay: 0 }), maxAttempts: 3 })
      const families = yield* scraped(Effect.gen(function*() {
        yield* Retry.apply(Effect.void, policy)
        yield* Retry.apply(Effect.fail(down), policy).pipe(Effect.ignore)
      }))
      assert.strictEqual(valueOf(families, prefixed("calls_total"), { policy: "search" }), 2)
      assert.strictEqual(valueOf(families, prefixed("attempts_total"), { policy: "search" }), 4)
      const verdict = { policy: "search", verdict: "Transient" }
      assert.strictEqual(valueOf(families, prefixed("retries_total"), verdict), 2)
      const gaveUp = { policy: "search", reason: "Exhausted" }
      assert.strictEqual(valueOf(families, prefixed("retries_gave_up_total"), gaveUp), 1)
    }))

  it.live("counts a call of an agent to its model once, also where a cut stream is asked for again", () =>
    Effect.gen(function*() {
      const none = { backoff: Backoff.constant({ delay: "1 millis" }) }
      const agent = Agent.make({
        name: "teller",
        instructions: "",
        policies: { model: Retry.apply(Retry.policy({ name: "model", ...none })) }
      })
      // Both policies repeat it: the program's own, and then the agent's.
      const cut = ScriptedModel.streamed("Once upon a time", { after: 3, end: Fault.transient })
      const World = Layer.merge(ScriptedModel.layer([cut, "Once."]), CheckpointStore.layerMemory)
      const families = yield* scraped(
        Effect.provide(Agent.run(agent, { runId: "teller-1", prompt: "Tell me" }), World)
      )
      assert.strictEqual(valueOf(families, prefixed("calls_total"), { policy: "model" }), 1)
      assert.strictEqual(valueOf(families, prefixed("attempts_total"), { policy: "model" }), 2)
      assert.isUndefined(valueOf(families, prefixed("calls_total"), { policy: "agent.stream" }))
      assert.isUndefined(valueOf(families, prefixed("attempts_total"), { policy: "agent.stream" }))
    }))

  it.effect("has one circuit state at 1, that in which the circuit is", () =>
    Effect.gen(function*() {
      const policy = Policy.make({ name: "search", circuit: { failures: 1, openFor: "1 minute" } })
      const families = yield* scraped(
        Effect.ignore(Policy.apply(Effect.fail(down), policy)).pipe(Effect.provide(Policy.layer))
      )
      const states = families.get(prefixed("circuit_state"))?.samples.map((
        { labels, value }
      ) => [labels["state"], value])
      assert.deepStrictEqual(states, [["Closed", 0], ["Open", 1], ["HalfOpen", 0]])
    }))

  it.effect("counts answers by their source, degraded or not", () =>
    Effect.gen(function*() {
      const answer = (self: Effect.Effect<string, typeof down>) =>
        self.pipe(Fallback.orElse("template", () => Effect.succeed("text")))
      const families = yield* scraped(Effect.all([answer(Effect.succeed("a")), answer(Effect.fail(down))]))
      const name = prefixed("answers_total")
      assert.strictEqual(valueOf(families, name, { source: "primary", degraded: "false" }), 1)
      assert.strictEqual(valueOf(families, name, { source: "template", degraded: "true" }), 1)
    }))

  it.effect("counts what is beyond the bound of a label as other, and what was there before by itself", () =>
    Effect.gen(function*() {
      const rejected = (key: string): Telemetry.Event => ({ _tag: "CircuitRejected", key, retryAfterMillis: 1 })
      const keys = Array.from({ length: 300 }, (_, index) => `tenant-${index}`)
      const families = yield* scraped(emitting([...keys, ...keys].map(rejected)), { maxLabelValues: 10 })
      const samples = families.get(prefixed("circuit_rejections_total"))?.samples ?? []
      assert.strictEqual(samples.length, 11)
      assert.strictEqual(samples.find(({ labels }) => labels["key"] === "tenant-9")?.value, 2)
      assert.strictEqual(samples.find(({ labels }) => labels["key"] === "other")?.value, 580)
    }))

  it.effect("has 100 values a label by default, and never more than 1,000 series a metric and one for the rest", () =>
    Effect.gen(function*() {
      const pairs = Array.from({ length: 50 * 50 }, (_, index): Telemetry.Event => ({
        _tag: "BudgetExceeded",
        agent: `agent-${index % 50}`,
        runId: `run-${index}`,
        budget: `budget-${Math.floor(index / 50)}`
      }))
      const many = Array.from({ length: 200 }, (_, index): Telemetry.Event => ({
        _tag: "CircuitRejected",
        key: `k-${index}`,
        retryAfterMillis: 1
      }))
      const families = yield* scraped(emitting([...pairs, ...many]))
      const samples = families.get(prefixed("budget_exceeded_total"))?.samples ?? []
      assert.strictEqual(samples.length, 1_001)
      assert.strictEqual(samples.reduce((sum, { value }) => sum + value, 0), 2_500)
      assert.strictEqual(families.get(prefixed("circuit_rejections_total"))?.samples.length, 101)
    }))

  it("names the option that cannot be one", () => {
    assert.throws(() => Telemetry.layerMetrics({ maxLabelValues: 0 }), /maxLabelValues/)
  })

  it.live("is served at /metrics, over HTTP, as a scraper reads it", () =>
    Effect.gen(function*() {
      const policy = Retry.policy({
        name: "he said \"no\"\\\n",
        backoff: Backoff.constant({ delay: 0 }),
        maxAttempts: 2
      })
      yield* Effect.ignore(Retry.apply(Effect.fail(down), policy))
      const response = yield* HttpClient.get("/metrics")
      assert.strictEqual(response.status, 200)
      assert.match(response.headers["content-type"] ?? "", /^text\/plain; version=0\.0\.4/)
      const families = parse(yield* response.text)
      const labels = { policy: "he said \"no\"\\\n", verdict: "Transient" }
      assert.strictEqual(valueOf(families, prefixed("retries_total"), labels), 1)
      assert.strictEqual(families.get(prefixed("retry_delay_seconds"))?.type, "histogram")
    }).pipe(
      Effect.provide(
        HttpRouter.serve(PrometheusMetrics.layerHttp(), { disableListenLog: true, disableLogger: true }).pipe(
          Layer.provideMerge(NodeHttpServer.layerTest),
          Layer.merge(Telemetry.layerMetrics())
        )
      ),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))
})
