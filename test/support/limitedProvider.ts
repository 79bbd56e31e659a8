/**
 * A provider with limits and the agents that call it, as events on a virtual clock and without fibers: an hour of them
 * takes milliseconds, so that a test can show what a governor does in the long run. Each process has a governor and a
 * queue of its own; the provider's balances are shared. An `oracle` sees these balances and is never refused.
 */
import { type Amounts, each } from "../../src/policy/internal/quotaAmounts.ts"
import { Governor, type Told } from "../../src/policy/internal/quotaGovernor.ts"

export interface World {
  readonly requests: number
  readonly inputTokens: number
  readonly outputTokens: number
  /** How much of a minute's limit the provider keeps. */
  readonly burst: number
  readonly agents: number
  readonly processes: number
  readonly headers: boolean
  /** Whether a refused call is charged all the same. */
  readonly charged: boolean
  readonly minutes: number
  readonly seed: number
}

export interface Result {
  readonly finished: number
  readonly calls: number
  readonly refused: number
  readonly byProcess: ReadonlyArray<number>
}

interface Call {
  readonly agent: number
  readonly step: number
  readonly cost: Amounts
  since: number
}

interface Process {
  readonly governor: Governor
  readonly queue: Array<Call>
  alarm: number
}

/** mulberry32 */
const random = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6D2B79F5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** What happens next, first what is due first, and of that what was planned first. */
class Agenda {
  private readonly due: Array<{ readonly at: number; readonly happen: () => void }> = []

  add(at: number, happen: () => void): void {
    let low = 0
    let high = this.due.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.due[middle]?.at ?? Infinity) >= at) low = middle + 1
      else high = middle
    }
    // from the last to the first, so that taking the next one moves nothing
    this.due.splice(low, 0, { at, happen })
  }

  next() {
    return this.due.pop()
  }
}

const limited = ["requests", "inputTokens", "outputTokens"] as const

export const simulate = (world: World, isOracle = false): Result => {
  const chance = random(world.seed)
  const agenda = new Agenda()
  const end = world.minutes * 60_000
  let now = 0
  let calls = 0
  let refused = 0
  const byProcess = Array.from({ length: world.processes }, () => 0)
  const balances = each((dimension) => dimension === "tokens" ? Infinity : world[dimension] * world.burst)
  let refilledAt = 0

  const refill = () => {
    for (const dimension of limited) {
      const back = world[dimension] * (now - refilledAt) / 60_000
      balances[dimension] = Math.min(world[dimension] * world.burst, balances[dimension] + back)
    }
    refilledAt = now
  }
  const lacking = (cost: Amounts): number => {
    refill()
    return Math.max(
      ...limited.map((dimension) =>
        Math.max(0, cost[dimension] - balances[dimension] - 1e-6) * 60_000 / world[dimension]
      )
    )
  }
  const told = () =>
    each((dimension): Told | undefined =>
      dimension === "tokens" ? undefined : {
        limit: world[dimension],
        remaining: Math.floor(Math.max(0, balances[dimension])),
        resetMillis: undefined
      }
    )

  const processes = Array.from({ length: world.processes }, (): Process => ({
    governor: new Governor(each(() => undefined), 300_000, 0),
    queue: [],
    alarm: -1
  }))

  const pump = (process: Process, index: number): void => {
    for (let call = process.queue[0]; call !== undefined; call = process.queue[0]) {
      const at = isOracle ? now + lacking(call.cost) : process.governor.readyAt(call.cost, now).at
      if (at > now + 0.001) {
        if (process.alarm === at) return
        process.alarm = at
        agenda.add(at, () => {
          if (process.alarm !== at) return
          process.alarm = -1
          pump(process, index)
        })
        return
      }
      process.queue.shift()
      send(process, index, call)
    }
  }

  const latency = (): number => {
    if (chance() < 0.01) return 8_000 * (1 - chance()) ** (-1 / 1.5)
    const normal = Math.sqrt(-2 * Math.log(1 - chance())) * Math.cos(2 * Math.PI * chance())
    return 4_000 * Math.exp(0.7 * normal)
  }

  const send = ({ governor, queue }: Process, index: number, call: Call): void => {
    calls++
    const admission = governor.take(call.cost, now, now > call.since, chance())
    const wait = lacking(call.cost)
    const process = processes[index]
    if (wait > 0) {
      refused++
      if (world.charged) {
        for (const dimension of limited) balances[dimension] = Math.max(0, balances[dimension] - call.cost[dimension])
      }
      const retryAfterMillis = Math.ceil(wait / 1_000) * 1_000
      agenda.add(now + 100 + 300 * chance(), () => {
        governor.refuse(admission, { isOverload: false, retryAfterMillis }, now, chance)
        if (process !== undefined) pump(process, index)
        agenda.add(now + retryAfterMillis + 1_000 * chance(), () => {
          call.since = now
          queue.push(call)
          if (process !== undefined) pump(process, index)
        })
      })
      return
    }
    for (const dimension of limited) balances[dimension] -= call.cost[dimension]
    const headers = world.headers ? told() : undefined
    agenda.add(now + latency(), () => {
      byProcess[index] = (byProcess[index] ?? 0) + 1
      governor.settle(admission, call.cost, now)
      governor.answered(call.cost, now)
      if (headers !== undefined) governor.observe(admission, headers, now)
      if (process !== undefined) pump(process, index)
      agenda.add(now + 2_000 * (0.5 + chance()), () => step(call.agent, call.step + 1))
    })
  }

  /** Each step of an agent knows more than the one before it, until a new task begins. */
  const step = (agent: number, at: number): void => {
    const inputTokens = Math.round((1_000 + 400 * (at % 20)) * (0.8 + 0.4 * chance()))
    const outputTokens = Math.round(300 * (0.5 + chance()))
    const index = agent % world.processes
    const process = processes[index]
    if (process === undefined) return
    const cost = { requests: 1, inputTokens, outputTokens, tokens: inputTokens + outputTokens }
    process.queue.push({ agent, step: at, cost, since: now })
    pump(process, index)
  }

  for (let agent = 0; agent < world.agents; agent++) agenda.add(1_000 * chance(), () => step(agent, agent))
  for (let event = agenda.next(); event !== undefined && event.at <= end; event = agenda.next()) {
    now = event.at
    event.happen()
  }
  return { finished: byProcess.reduce((sum, count) => sum + count, 0), calls, refused, byProcess }
}

/** What a run comes to beside one that is never refused. */
export const compare = (world: World) => {
  const { byProcess, calls, finished, refused } = simulate(world)
  const best = simulate(world, true).finished
  const squares = byProcess.reduce((sum, count) => sum + count * count, 0)
  return {
    goodput: finished / best,
    amplification: calls / (calls - refused),
    /** Jain's index of fairness: 1 where all have the same. */
    fairness: finished * finished / (byProcess.length * squares)
  }
}
