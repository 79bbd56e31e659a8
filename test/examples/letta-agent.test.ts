import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { run } from "../../examples/letta-agent/main.ts"

describe("the concierge on a bad evening", () => {
  it.live("answers what can be answered, and no message reaches the agent twice", () =>
    Effect.gen(function*() {
      const { replies, requests, turns } = yield* run(0)
      assert.deepStrictEqual(replies.map(({ by, question }) => [question.id, by]), [
        ["q-1", "concierge"],
        ["q-2", "concierge"],
        ["q-3", "concierge"],
        ["q-4", "concierge"],
        ["q-5", "concierge"],
        ["q-6", "closed"],
        ["q-7", "template"]
      ])
      assert.deepStrictEqual(
        replies.slice(1, 4).map(({ text }) => text),
        Array.from({ length: 3 }, () => "Your table is booked.")
      )
      assert.deepStrictEqual(turns, [
        "Ada asks: may I have tea?",
        "Bo asks: a table for two",
        "Cleo asks: a table for two",
        "Dan asks: a table for two",
        "Eve asks: may I have tea?"
      ])
      assert.match(replies[5]?.because ?? "", /persona has changed/)
      assert.match(replies[6]?.because ?? "", /HTTP 502/)
      const messages = requests.filter(({ path }) => path.endsWith("/messages"))
      assert.lengthOf(messages, 9, "q-2 takes three tries, q-3 one, and q-4 and q-5 two each")
      assert.lengthOf(requests.filter(({ path }) => path.startsWith("/v1/runs/")), 2)
    }))
})
