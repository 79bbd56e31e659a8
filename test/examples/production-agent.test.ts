import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { hour } from "../../examples/production-agent/day.ts"
import { example } from "../../examples/production-agent/example.ts"
import { parse } from "../support/prometheus.ts"

const perMinute = 60 / hour.everySeconds

/** What was answered to those who asked from one minute to another, given the letters of all. */
const between = (letters: string, [from, to]: readonly [number, number]) =>
  letters.slice(Math.ceil(from * perMinute), Math.floor(to * perMinute))

describe("the assistant's bad hour", () => {
  it.effect("answers everybody, from where it can, and sends no voucher twice", () =>
    Effect.gen(function*() {
      const { letters, metrics, sent } = yield* example.virtual(1)
      assert.lengthOf(letters, hour.minutes * perMinute)
      assert.notInclude(letters, "!")
      // The second model stands in for the first without anybody noticing.
      assert.match(between(letters, [0, hour.secondDown[0]]), /^A+$/)
      // Without any model nobody gets a new answer, and what is the same for everybody is answered as before. Who asks in
      // the last minute may be asked for less, once a model is there again.
      const [from, to] = hour.secondDown
      assert.match(between(letters, [from, to - 1]), /^[LTE]+$/)
      // Without its journal no run is begun, and the model still answers what has no effects.
      assert.match(between(letters, hour.storeDown), /^[ALS]+$/)
      assert.include(between(letters, hour.storeDown), "S")
      assert.match(between(letters, [50, 60]), /^A+$/)
      const { failed, fallbackUses, sources, successful, total } = metrics
      assert.deepStrictEqual([total, successful, failed], [letters.length, letters.length, 0])
      assert.strictEqual(fallbackUses, letters.replaceAll("A", "").length)
      assert.strictEqual(Object.values(sources).reduce((sum, count) => sum + count, 0), total)
      assert.strictEqual(new Set(sent).size, sent.length)
    }).pipe(Effect.provide(NodeServices.layer)))

  it.live("is told over HTTP while it runs: a scraper reads what became of every answer", () =>
    Effect.gen(function*() {
      const { letters, live, metrics, ready, scraped } = yield* example.live(1)
      assert.deepStrictEqual([live, ready], [200, 200])
      const families = parse(scraped)
      const answers = families.get("effect_resilience_answers_total")
      const bySource = Object.fromEntries(
        (answers?.samples ?? []).map(({ labels, value }) => [labels["source"], value])
      )
      assert.notInclude(letters, "!")
      for (const [source, count] of Object.entries(metrics.sources)) {
        assert.isAtLeast(bySource[source] ?? 0, count, source)
      }
      const opened = families.get("effect_resilience_circuit_transitions_total")?.samples.filter(({ labels }) =>
        labels["to"] === "Open"
      )
      assert.sameMembers([...new Set(opened?.map(({ labels }) => labels["key"]))], [
        "assistant/primary",
        "assistant/second"
      ])
      assert.isTrue(families.has("effect_resilience_health_status"))
    }).pipe(Effect.provide(NodeServices.layer)), 120_000)

  it.effect("is the same for a seed each time", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* example.virtual(2), yield* example.virtual(2)]
      assert.strictEqual(one.letters, two.letters)
      assert.deepStrictEqual(one.sent, two.sent)
    }).pipe(Effect.provide(NodeServices.layer)))
})
