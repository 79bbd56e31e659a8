import * as Redis from "effect/persistence/Redis"

// A sorted set of the holders of one circuit, each with the time until which it holds if nothing is heard from it: a
// process that dies lets go. The server's clock decides, as it does for the circuits.
const live = `
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function holders() return redis.call("ZCOUNT", KEYS[1], "(" .. string.format("%.0f", now), "+inf") end
`

/** @internal */
export const countHolds = Redis.script((key: string) => [key], { numberOfKeys: 1, lua: `${live}return holders()` })
  .withReturnType<number>()

/** @internal */
export const hold = Redis.script((key: string, id: string, leaseMillis: number) => [key, id, Math.ceil(leaseMillis)], {
  numberOfKeys: 1,
  lua: `${live}
local lease = tonumber(ARGV[2])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("%.0f", now))
redis.call("ZADD", KEYS[1], string.format("%.0f", now + lease), ARGV[1])
if redis.call("PTTL", KEYS[1]) < lease then
  redis.call("PEXPIRE", KEYS[1], string.format("%.0f", lease))
end
return holders()
`
}).withReturnType<number>()

/** @internal */
export const release = Redis.script((key: string, id: string) => [key, id], {
  numberOfKeys: 1,
  lua: `${live}
redis.call("ZREM", KEYS[1], ARGV[1])
return holders()
`
}).withReturnType<number>()
