/**
 * The adaptive retry mode of the AWS SDK for JavaScript, after `AdaptiveRetryStrategy`, `StandardRetryStrategy` and
 * `DefaultRateLimiter` of `@smithy/core` 3.41: a token bucket whose rate follows CUBIC, three attempts with full jitter,
 * and a budget of retries, one client a process. It retries throttling (429) and what is transient; 529, which AWS does
 * not know, counts as transient. It has no steps of its own, and gets durable ones here.
 */
import { Effect } from "effect"
import { fetchEffect, type Implementation, orElse, type ProviderFailure } from "../client.ts"
import type { VirtualTime } from "../virtualTime.ts"

const beta = 0.7
const minCapacity = 1
const minFillRate = 0.5
const scaleConstant = 0.4
const smooth = 0.8

const precise = (value: number): number => Number.parseFloat(value.toFixed(8))

class RateLimiter {
  private readonly time: VirtualTime
  private availableTokens = 0
  private enabled = false
  private lastMaxRate = 0
  private measuredTxRate = 0
  private requestCount = 0
  private fillRate = minFillRate
  private maxCapacity = minCapacity
  private lastThrottleTime: number
  private lastTimestamp = 0
  private lastTxRateBucket: number

  constructor(time: VirtualTime) {
    this.time = time
    this.lastThrottleTime = this.seconds
    this.lastTxRateBucket = Math.floor(this.seconds)
  }

  private get seconds(): number {
    return this.time.currentTimeMillisUnsafe() / 1_000
  }

  /** Whoever waits looks again when he expects a token, which another one may have taken by then. */
  readonly getSendToken: Effect.Effect<void> = Effect.suspend(() => {
    if (!this.enabled) return Effect.void
    if (this.tryTake()) return Effect.void
    return Effect.callback((resume) => {
      let cancel: () => void
      const wait = () => {
        cancel = this.time.after((1 - this.availableTokens) / this.fillRate * 1_000, () => {
          if (this.tryTake()) resume(Effect.void)
          else wait()
        })
      }
      wait()
      return Effect.sync(() => cancel())
    })
  })

  private tryTake(): boolean {
    this.refill()
    if (this.availableTokens < 1) return false
    this.availableTokens -= 1
    return true
  }

  update(isThrottling: boolean): void {
    this.measure()
    let rate: number
    if (isThrottling) {
      this.lastMaxRate = this.enabled ? Math.min(this.measuredTxRate, this.fillRate) : this.measuredTxRate
      this.lastThrottleTime = this.seconds
      this.enabled = true
      rate = precise(this.lastMaxRate * beta)
    } else {
      const timeWindow = precise((this.lastMaxRate * (1 - beta) / scaleConstant) ** (1 / 3))
      rate = precise(scaleConstant * (this.seconds - this.lastThrottleTime - timeWindow) ** 3 + this.lastMaxRate)
    }
    const newRate = Math.min(rate, 2 * this.measuredTxRate)
    this.refill()
    this.fillRate = Math.max(newRate, minFillRate)
    this.maxCapacity = Math.max(newRate, minCapacity)
    this.availableTokens = Math.min(this.availableTokens, this.maxCapacity)
  }

  private measure(): void {
    const bucket = Math.floor(this.seconds * 2) / 2
    this.requestCount++
    if (bucket <= this.lastTxRateBucket) return
    const currentRate = this.requestCount / (bucket - this.lastTxRateBucket)
    this.measuredTxRate = precise(currentRate * smooth + this.measuredTxRate * (1 - smooth))
    this.requestCount = 0
    this.lastTxRateBucket = bucket
  }

  private refill(): void {
    const timestamp = this.seconds
    if (this.lastTimestamp !== 0) {
      const filled = (timestamp - this.lastTimestamp) * this.fillRate
      this.availableTokens = Math.min(this.maxCapacity, this.availableTokens + filled)
    }
    this.lastTimestamp = timestamp
  }
}

const maxAttempts = 3
const maxDelayMillis = 20_000
const initialRetryTokens = 500
const retryCost = 14
const throttlingCost = 5
const isThrottling = ({ status }: ProviderFailure): boolean => status === 429

const delayMillis = (failure: ProviderFailure, retry: number, random: number): number => {
  const base = isThrottling(failure) ? 1_000 : 50
  const backoff = Math.floor(random * Math.min(base * 2 ** retry, maxDelayMillis))
  const asked = failure.retryAfterMillis
  return asked === undefined ? backoff : Math.max(backoff, Math.min(asked, backoff + 5_000))
}

export const awsAdaptive: Implementation = {
  name: "aws-adaptive",
  repeats: "step",
  make: (world) =>
    Effect.sync(() => {
      const clients = new Map([world.provider, world.fallback].flatMap((provider) =>
        provider === undefined
          ? []
          : [[provider, { limiter: new RateLimiter(world.time), capacity: initialRetryTokens }]]
      ))
      return orElse(world, (provider, { next }) => {
        const client = clients.get(provider)
        if (client === undefined) return Effect.die(`there is no client for ${provider.name}`)
        const attempt = (retry: number, paid: number | undefined): Effect.Effect<void, ProviderFailure> =>
          client.limiter.getSendToken.pipe(
            Effect.andThen(Effect.suspend(() => fetchEffect(world.time, provider, next()))),
            Effect.tap(() =>
              Effect.sync(() => {
                client.limiter.update(false)
                client.capacity = Math.min(initialRetryTokens, client.capacity + (paid ?? 1))
              })
            ),
            Effect.catch((failure) => {
              client.limiter.update(isThrottling(failure))
              const cost = isThrottling(failure) ? throttlingCost : retryCost
              if (retry + 1 >= maxAttempts || client.capacity < cost) return Effect.fail(failure)
              client.capacity -= cost
              return Effect.andThen(Effect.sleep(delayMillis(failure, retry, world.random())), attempt(retry + 1, cost))
            })
          )
        return attempt(0, undefined)
      })
    })
}
