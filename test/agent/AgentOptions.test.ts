import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Agent, AgentBudget, Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { kit } from "./support.ts"

const Secret = Schema.Struct({ token: Schema.RedactedFromValue(Schema.String) })
class Denied extends Schema.TaggedError<Denied>("test/Denied")("Denied", { token: Schema.Redacted(Schema.String) }) {}

const base = { name: "support", instructions: "" }
/** As it comes from a file or another program, whatever the types say. */
const from = (json: string): never => JSON.parse(json) as never

describe("an agent refuses when it is made", () => {
  const refuses = (make: () => unknown, option: string, named: string) => {
    try {
      make()
    } catch (error) {
      assert.instanceOf(error, Fault.InvalidConfig)
      assert.strictEqual(error.option, option)
      assert.include(error.message, named)
      return
    }
    assert.fail("it was made")
  }

  it("a tool whose result or failure holds a secret, which the journal and the model would see", () => {
    const Login = Tool.make("Login", { success: Secret })
    const Logout = Tool.make("Logout", { failure: Denied })
    refuses(() => Agent.make({ ...base, toolkit: Toolkit.make(Login) }), "toolkit.Login.success", "Redacted")
    refuses(() => Agent.make({ ...base, toolkit: Toolkit.make(Logout) }), "toolkit.Logout.failure", "Redacted")
  })

  it("what is no toolkit, no schema, no predicate, no layer and no time, whatever the types say", () => {
    refuses(() => Agent.make({ ...base, toolkit: from("{}") }), "toolkit", "a Toolkit")
    refuses(() => Agent.make({ ...base, result: from("3") }), "result", "a Schema")
    refuses(() => Agent.reviewed(Agent.make(base), from("{}")), "when", "a predicate")
    refuses(() => Agent.make({ ...base, approvalTimeToLive: 0 }), "approvalTimeToLive", "a duration")
    refuses(() => Agent.layerProduction(from("{}")), "model", "a Layer")
    refuses(
      () => Agent.layerProduction({ model: ScriptedModel.layer([]), store: from("{}") }),
      "store",
      "a Layer"
    )
  })

  it("a result schema that holds a secret", () =>
    refuses(() => Agent.make({ ...base, result: Secret }), "result", "Redacted"))

  it("options of a tool that it does not have", () =>
    refuses(() => Agent.make({ ...base, toolkit: kit, tools: from(`{"nope":{}}`) }), "tools.nope", "Lookup, Refund"))

  it("a shared limit of money without a price table to count it by", () =>
    refuses(
      () => Agent.make({ ...base, sharedBudget: AgentBudget.shared({ cost: 1 }) }),
      "budget.prices",
      "price table"
    ))

  it("effects and an approval that there are not", () => {
    const tools = from(`{"Refund":{"effects":"banana"}}`)
    refuses(() => Agent.make({ ...base, toolkit: kit, tools }), "tools.Refund.effects", "banana")
    refuses(() => Agent.make({ ...base, toolkit: kit, approval: from(`"banana"`) }), "approval", "banana")
  })
})
