/**
 * The agent program: triage a ticket, let the agent look things up and refund, keep the reply. It knows nothing of
 * providers, storms or kills: the layers around it choose the world.
 */
import { Duration, Effect, flow, Schema } from "effect"
import {
  Agent,
  AgentTools,
  Backoff,
  Checkpoint,
  CircuitBreaker,
  Deadline,
  EscalationQueue,
  Fallback,
  Retry
} from "effect-resilience"
import { LanguageModel, Prompt, Tool, Toolkit } from "effect/ai"
import { agentPrompt, classify, Triage, triagePrompt } from "./Desk.ts"
import { Customer, Order, Refund, RefundRefused, Reply, Shop, ShopUnavailable } from "./Shop.ts"
import type { Ticket } from "./Ticket.ts"

/** Refunds above this want a person's word. */
export const approvalAboveCents = 10_000

const NotFound = Schema.Struct({ found: Schema.Literal(false) })
const RefundParameters = Schema.Struct({
  orderId: Schema.String,
  amountCents: Schema.Int.check(Schema.isGreaterThan(0)),
  reason: Schema.String
})
const Refunded = Schema.Struct({ refunded: Schema.Int, orderId: Schema.String })

export const tools = Toolkit.make(
  Tool.make("findCustomer", {
    description: "Looks a customer up by e-mail address.",
    parameters: Schema.Struct({ email: Schema.String }),
    success: Schema.Union([Customer, NotFound]),
    failure: ShopUnavailable
  }).annotate(Tool.Readonly, true),
  Tool.make("findOrder", {
    description: "Looks an order up by its number, HB- and four digits.",
    parameters: Schema.Struct({ orderId: Schema.String }),
    success: Schema.Union([Order, NotFound]),
    failure: ShopUnavailable
  }).annotate(Tool.Readonly, true),
  Tool.make("serviceStatus", {
    description: "Says how a region of the service is doing.",
    parameters: Schema.Struct({ region: Schema.String }),
    success: Schema.Struct({ region: Schema.String, state: Schema.String })
  }).annotate(Tool.Readonly, true),
  Tool.make("refund", {
    description: "Pays money back for an order. It cannot be undone.",
    parameters: RefundParameters,
    success: Refunded,
    failure: Schema.Union([RefundRefused, ShopUnavailable]),
    needsApproval: ({ amountCents }) => amountCents > approvalAboveCents
  }).annotate(Tool.Destructive, true)
)

/** The tools over the shop. A refund carries its call's key, so that one can find out later whether it happened. */
export const toolsLayer = tools.toLayer(Effect.gen(function*() {
  const shop = yield* Shop
  const orNotFound = <A>(found: A | undefined) => found ?? { found: false as const }
  return tools.of({
    findCustomer: ({ email }) => Effect.map(shop.customer(email), orNotFound),
    findOrder: ({ orderId }) => Effect.map(shop.order(orderId), orNotFound),
    serviceStatus: ({ region }) => Effect.succeed({ region, state: "degraded, being worked on" }),
    refund: Effect.fnUntraced(function*({ amountCents, orderId, reason }) {
      const call = yield* AgentTools.CurrentToolCall
      yield* shop.refund(new Refund({ key: call?.idempotencyKey ?? orderId, orderId, amountCents, reason }))
      return { refunded: amountCents, orderId }
    })
  })
}))

/** Did the refund happen? The shop's own books say so for certain, so nobody has to be asked. */
const reconcileRefund = Effect.fnUntraced(function*(call: AgentTools.UncertainCall<typeof tools.tools.refund>) {
  const shop = yield* Shop
  const [paid] = yield* shop.refundsOf(call.idempotencyKey)
  return paid === undefined
    ? Checkpoint.notHappened
    : Checkpoint.happened({ refunded: paid.amountCents, orderId: paid.orderId })
})

/** How long the desk waits for its provider: triage gives way to the rules soon, the agent rides out an outage. */
export interface Patience {
  readonly base: Duration.Input
  readonly cap: Duration.Input
  readonly triageAttempts: number
  readonly triageTimeout: Duration.Input
  readonly agentFor: Duration.Input
}

export const patient: Patience = {
  base: "1 second",
  cap: "60 seconds",
  triageAttempts: 4,
  triageTimeout: "15 seconds",
  agentFor: "30 minutes"
}

/** The simulated provider answers in milliseconds and its outage lasts seconds, so the waits are short as well. */
export const brisk: Patience = {
  base: "150 millis",
  cap: "2 seconds",
  triageAttempts: 4,
  triageTimeout: "2 seconds",
  agentFor: "60 seconds"
}

/** How a ticket ended. `reason` says why somebody has to look at it. */
export const Outcome = Schema.Struct({
  ticket: Schema.String,
  status: Schema.Literals(["done", "escalated"]),
  category: Schema.String,
  triageBy: Schema.Literals(["model", "rules"]),
  answerBy: Schema.Literals(["agent", "template", "holding reply"]),
  refunded: Schema.Boolean,
  cost: Schema.Finite,
  reason: Schema.optionalKey(Schema.String)
})
export type Outcome = typeof Outcome.Type

const Answer = Schema.Struct({ text: Schema.String, refunded: Schema.Boolean, cost: Schema.Finite })

const text = (ticket: Ticket): string =>
  `Id: ${ticket.id}\nFrom: ${ticket.from}\nSubject: ${ticket.subject}\nDate: ${ticket.date}\n\n${ticket.body}`

const holdingReply = (ticket: Ticket): string =>
  `Hello ${ticket.from.replace(/ *<.*/, "")},\n\nwe have your message "${ticket.subject}" and a colleague answers it ` +
  "as soon as possible.\n\nKind regards, Harbor"

/** Prices of the model in US dollars for a million tokens. */
const prices = { input: 5, output: 25 }

/** Creates the desk's program for one ticket. */
export const make = (options: { readonly model: string; readonly patience?: Patience | undefined }) => {
  const { agentFor, base, cap, triageAttempts, triageTimeout } = options.patience ?? patient
  const backoff = Backoff.fullJitter({ base, cap })
  // Sorting is quick or not worth waiting for: a model that hangs gives way to the rules.
  const guardTriage = flow(
    Deadline.attempt(triageTimeout, { name: "triage" }),
    CircuitBreaker.protect("provider"),
    Retry.apply(Retry.policy({ name: "triage", backoff, maxAttempts: triageAttempts, idempotent: true }))
  )
  // An open circuit refuses at once. The agent has nowhere else to go, so it waits as long as the circuit says.
  const ridingOut = Retry.policy({
    name: "agent",
    backoff,
    maxAttempts: 1_000,
    maxElapsed: agentFor,
    idempotent: true,
    retryRejected: true
  })
  const agent = Agent.make({
    name: "support",
    instructions: agentPrompt,
    toolkit: tools,
    budget: {
      iterations: 8,
      wallTime: Duration.max(Duration.fromInputUnsafe(agentFor), Duration.minutes(5)),
      prices: { [options.model]: prices },
      cost: 1
    },
    policies: {
      model: (call) => call.pipe(CircuitBreaker.protect("provider"), Retry.apply(ridingOut))
    },
    tools: { refund: { reconcile: reconcileRefund } }
  })

  const triage = (ticket: Ticket) =>
    LanguageModel.generateObject({
      prompt: Prompt.make([
        { role: "system", content: triagePrompt },
        { role: "user", content: [{ type: "text", text: text(ticket) }] }
      ]),
      schema: Triage,
      objectName: "triage"
    }).pipe(
      Effect.map((response) => response.value),
      guardTriage,
      Fallback.primary("model"),
      Fallback.orElse("rules", () => Effect.succeed(classify(ticket)), { takes: "all" })
    )

  const answer = (ticket: Ticket) =>
    Agent.loop(agent, { prompt: text(ticket) }).pipe(
      Effect.map((result) => ({
        text: result.text,
        refunded: result.turns.some(({ toolCalls }) =>
          toolCalls.some((call) => call.name === "refund" && !call.isFailure)
        ),
        cost: result.cost ?? 0
      })),
      Fallback.primary("agent"),
      Fallback.orElse(
        "template",
        () => Effect.succeed({ text: holdingReply(ticket), refunded: false, cost: 0 }),
        { takes: ["AiError", "AgentError", "CircuitOpen"] }
      )
    )

  const escalate = (ticket: Ticket, reason: EscalationQueue.Reason, context: unknown) =>
    Effect.gen(function*() {
      const { runId, scope } = yield* Checkpoint.current
      yield* EscalationQueue.submit({
        reason,
        task: `Answer ticket ${ticket.id}: ${ticket.subject}`,
        runId,
        context,
        dedupeKey: `${runId}/${scope}`
      })
    })

  return Effect.fn("support-desk.work")(
    function*(ticket: Ticket) {
      const triaged = yield* Checkpoint.step(
        "triage",
        { success: Fallback.AnswerSchema(Triage, ["model", "rules"]) },
        triage(ticket)
      )
      const { category, confidence, language } = triaged.value
      const unsure = confidence < 0.5
      const answered = unsure ? undefined : yield* Checkpoint.step(
        "answer",
        { success: Fallback.AnswerSchema(Answer, ["agent", "template"]) },
        answer(ticket)
      )
      const reason: EscalationQueue.Reason | undefined = unsure
        ? "LowConfidence"
        : answered?.degraded === true
        ? "MaxRetriesExceeded"
        : category === "security"
        ? "RequiresHuman"
        : undefined
      if (reason !== undefined) {
        yield* Checkpoint.step(
          "escalate",
          {},
          escalate(ticket, reason, { category, confidence, errors: answered?.errors })
        )
      }
      const shop = yield* Shop
      const body = answered?.value.text ?? holdingReply(ticket)
      yield* Checkpoint.step("reply", {}, shop.saveReply(new Reply({ ticketId: ticket.id, category, language, body })))
      return {
        ticket: ticket.id,
        status: reason === undefined ? "done" : "escalated",
        category,
        triageBy: triaged.source,
        answerBy: answered?.source ?? "holding reply",
        refunded: answered?.value.refunded ?? false,
        cost: answered?.value.cost ?? 0,
        ...(reason === undefined ? {} : { reason })
      } satisfies Outcome
    },
    (program, ticket) => Checkpoint.run(program, { id: `ticket-${ticket.id}`, version: 1, input: text(ticket) })
  )
}
