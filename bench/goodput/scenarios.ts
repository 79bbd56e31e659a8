import type { Shape } from "./agents.ts"
import type { Limits, Trouble } from "./provider.ts"

/** What happens in one case. */
export interface Scenario extends Shape {
  readonly name: string
  /** How long it is looked at, in milliseconds. */
  readonly millis: number
  /** Between how many processes the agents are divided, which share nothing. */
  readonly processes: number
  readonly limits: Limits
  readonly slots: number
  readonly troubles: ReadonlyArray<Trouble>
  readonly headers: "all" | "none"
  readonly refusalsCharged: boolean
  /** A second provider, with half of the limits. */
  readonly hasFallback: boolean
}

const second = 1_000

const limits: Limits = { requestsPerMinute: 400, inputTokensPerMinute: 2_000_000, outputTokensPerMinute: 250_000 }

/** The limits let 45 agents work at full speed: here are 0.8 times as many. */
const nominal: Scenario = {
  name: "nominal",
  agents: 36,
  steps: 15,
  millis: 900 * second,
  processes: 1,
  limits,
  slots: 60,
  troubles: [],
  headers: "all",
  refusalsCharged: false,
  hasFallback: false
}

/** Here are 2.5 times as many. */
const overload: Scenario = { ...nominal, name: "overload", agents: 112 }

const outage = (seconds: number): Scenario => {
  const from = 300 * second
  const to = from + seconds * second
  return { ...nominal, name: `outage-${seconds}`, millis: to + 600 * second, troubles: [{ kind: "outage", from, to }] }
}

export const scenarios: ReadonlyArray<Scenario> = [
  nominal,
  overload,
  { ...overload, name: "overload-charged", refusalsCharged: true },
  { ...overload, name: "overload-charged-10p", refusalsCharged: true, processes: 10 },
  {
    ...nominal,
    name: "brownout-60",
    troubles: [{ kind: "brownout", from: 300 * second, to: 360 * second, slots: 8 }]
  },
  outage(180),
  outage(861),
  { ...overload, name: "no-headers", headers: "none" },
  { ...outage(180), name: "two-providers", hasFallback: true }
]
