import { assert, describe, it } from "@effect/vitest"
import { Bucket, type Call, type Options, type Outcome, Provider } from "../../bench/goodput/provider.ts"
import { VirtualTime } from "../../bench/goodput/virtualTime.ts"

const minute = 60_000

const world = (options?: Partial<Options>) => {
  const time = new VirtualTime()
  const provider = new Provider(time, 1, {
    name: "primary",
    limits: { requestsPerMinute: 600, inputTokensPerMinute: 60_000, outputTokensPerMinute: 600_000 },
    slots: 1_000,
    ...options
  })
  let sent = 0
  const ends: Array<{ readonly call: number; readonly at: number; readonly outcome: Outcome }> = []
  const heads: Array<number> = []
  const send = (inputTokens = 1_000, more?: Partial<Call>) => {
    const call = sent++
    return provider.send({ id: `call ${call}`, inputTokens, maxOutputTokens: 1_000, outputTokens: 100, ...more }, {
      head: () => heads.push(call),
      end: (outcome) => ends.push({ call, at: time.now, outcome })
    })
  }
  const refused = () => ends.flatMap(({ outcome }) => outcome._tag === "Refused" ? [outcome] : [])
  const answered = () => ends.filter(({ outcome }) => outcome._tag === "Answered")
  return { time, provider, send, ends, heads, refused, answered }
}

describe("Bucket", () => {
  it("holds a minute's worth, and fills up continuously, never above it", () => {
    const bucket = new Bucket(6_000)
    assert.strictEqual(bucket.take(0, 6_000), 6_000)
    assert.closeTo(bucket.has(100), 10, 1e-9)
    assert.closeTo(bucket.has(30_000), 3_000, 1e-9)
    assert.strictEqual(bucket.has(10 * minute), 6_000)
  })

  it("says to the millisecond when it holds enough", () => {
    const bucket = new Bucket(6_000)
    bucket.take(0, 6_000)
    const wait = bucket.wait(0, 250)
    assert.closeTo(wait, 2_500, 1e-9)
    assert.closeTo(bucket.has(wait), 250, 1e-9)
  })

  it("gives no more than it has, and takes back no more than it holds", () => {
    const bucket = new Bucket(100)
    assert.strictEqual(bucket.take(0, 70), 70)
    assert.strictEqual(bucket.take(0, 70), 30)
    bucket.give(0, 500)
    assert.strictEqual(bucket.has(0), 100)
  })
})

describe("Provider", () => {
  it("refuses with 429 what the bucket does not hold, and admits it when it said", () => {
    const { refused, send, time } = world()
    for (let calls = 0; calls < 61; calls++) send()
    time.runUntil(100)
    const [refusal] = refused()
    assert.strictEqual(refused().length, 1)
    assert.strictEqual(refusal?.status, 429)
    // 1,000 tokens take exactly a second, which is rounded up from the moment of the refusal
    assert.strictEqual(refusal?.headers["retry-after"], "1")
    time.runUntil(1_050)
    send()
    time.runUntil(1_200)
    assert.strictEqual(refused().length, 1)
  })

  it("rounds retry-after up to whole seconds", () => {
    const { refused, send, time } = world()
    for (let calls = 0; calls < 60; calls++) send()
    send(2_100)
    time.runUntil(100)
    assert.strictEqual(refused()[0]?.headers["retry-after"], "3")
  })

  it("tells its limits with answers and refusals", () => {
    const { answered, refused, send, time } = world()
    for (let calls = 0; calls < 61; calls++) send()
    time.runUntil(10 * minute)
    const [first] = answered()
    const headers = first?.outcome._tag === "Answered" ? first.outcome.headers : {}
    assert.strictEqual(headers["anthropic-ratelimit-input-tokens-limit"], "60000")
    assert.strictEqual(headers["anthropic-ratelimit-requests-limit"], "600")
    assert.strictEqual(headers["retry-after"], undefined)
    const told = refused()[0]?.headers ?? {}
    assert.strictEqual(told["anthropic-ratelimit-input-tokens-remaining"], "0")
    assert.strictEqual(told["anthropic-ratelimit-input-tokens-reset"], "2026-01-01T00:01:01Z")
    assert.strictEqual(told["anthropic-ratelimit-requests-remaining"], "540")
  })

  it("tells nothing at all without headers", () => {
    const { refused, send, time } = world({ headers: "none" })
    for (let calls = 0; calls < 61; calls++) send()
    time.runUntil(100)
    assert.deepStrictEqual(refused().map(({ headers, status }) => ({ headers, status })), [{
      headers: {},
      status: 429
    }])
  })

  it("charges refused calls only where that is asked for", () => {
    const admittedOf = (refusalsCharged: boolean) => {
      const { provider, refused, send, time } = world({ refusalsCharged })
      for (let calls = 0; calls < 60; calls++) send()
      // Every half a second somebody asks for what takes a second to come.
      for (let at = 1; at <= 20; at++) time.after(at * 500, () => send())
      time.runUntil(11_000)
      return { admitted: 80 - refused().length, tokens: provider.log.inputTokens }
    }
    assert.deepStrictEqual(admittedOf(false), { admitted: 70, tokens: 70_000 })
    assert.deepStrictEqual(admittedOf(true), { admitted: 60, tokens: 70_000 })
  })

  it("answers so many at a time, and refuses the others with 529 and without a time", () => {
    const { refused, send, time } = world({ slots: 5 })
    for (let calls = 0; calls < 8; calls++) send(10)
    time.runUntil(100)
    assert.deepStrictEqual(refused().map(({ headers, status }) => ({ headers, status })), [
      { headers: {}, status: 529 },
      { headers: {}, status: 529 },
      { headers: {}, status: 529 }
    ])
  })

  it("frees the slot of a call that hangs up, and gives back the output that was not used", () => {
    const { refused, send, time } = world({
      slots: 1,
      limits: { requestsPerMinute: 600, inputTokensPerMinute: 60_000, outputTokensPerMinute: 1_000 }
    })
    const hangUp = send(10)
    time.runUntil(60)
    hangUp()
    // 900 of 1,000 came back, and more in the meantime
    send(10, { maxOutputTokens: 900 })
    time.runUntil(200)
    assert.deepStrictEqual(refused(), [])
  })

  it("answers four seconds later in the median, after its head, a few stall", () => {
    const { answered, ends, heads, send, time } = world({
      limits: { requestsPerMinute: 1e6, inputTokensPerMinute: 1e9, outputTokensPerMinute: 1e9 },
      slots: 1e6
    })
    for (let calls = 0; calls < 10_000; calls++) send(1)
    time.runUntil(10 * minute)
    const latencies = answered().map(({ at }) => at).toSorted((one, other) => one - other)
    assert.approximately(latencies[Math.floor(latencies.length / 2)] ?? 0, 4_050, 100)
    assert.approximately(10_000 - ends.length, 30, 20)
    const begun = new Set(heads)
    assert.isTrue(answered().every(({ call }) => begun.has(call)))
  })

  it("resets what is under way when an outage begins, then refuses four of five and lets the others hang", () => {
    const { ends, refused, send, time } = world({
      limits: { requestsPerMinute: 1e6, inputTokensPerMinute: 1e9, outputTokensPerMinute: 1e9 },
      slots: 1e6,
      troubles: [{ kind: "outage", from: 100, to: minute }]
    })
    for (let calls = 0; calls < 10; calls++) send(1)
    time.runUntil(100)
    assert.deepStrictEqual(ends.map(({ at, outcome }) => `${outcome._tag} at ${at}`), Array(10).fill("Reset at 100"))
    for (let calls = 0; calls < 1_000; calls++) send(1)
    time.runUntil(5 * minute)
    assert.approximately(refused().length, 800, 40)
    assert.approximately(refused().filter(({ status }) => status === 529).length, 400, 40)
    assert.strictEqual(ends.length, 10 + refused().length)
  })

  it("has fewer slots in a brownout, and comes back slowly after an outage", () => {
    const { provider, time } = world({
      slots: 100,
      troubles: [
        { kind: "brownout", from: 1_000, to: 2_000, slots: 8 },
        { kind: "outage", from: 3_000, to: 4_000 }
      ]
    })
    const slotsAt = (at: number) => {
      time.runUntil(at)
      return provider.slots
    }
    assert.deepStrictEqual([0, 1_000, 2_000, 3_000, 4_000, 64_000, 124_000].map(slotsAt), [100, 8, 100, 0, 10, 55, 100])
  })
})
