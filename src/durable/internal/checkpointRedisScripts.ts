import * as Redis from "effect/persistence/Redis"
import { prelude } from "./redisStore.ts"

// A run is one hash: what is known about it by name, and its records by position. One key cannot lose one half of a run,
// and an append is one command in the log of Redis. `born` is the token of the first lease, by which runs are ordered;
// `from` is where the last append of the present lease began.

/**
 * How old the layout is that this release knows.
 *
 * @internal
 */
export const knownFormat = 1

// A lease of a run without a record is forgotten a day after it ran out.
const idle = 86_400_000

/** @internal */
export type Refused = readonly ["fenced"] | readonly ["corrupt", detail: string]

// A failover may lose a token and grant it again: the owner tells the two leases apart. Who has released its lease and
// did not hear of it may release it again.
const held = `${prelude}
local function isFenced(token, owner) return token ~= ARGV[1] or (owner and owner ~= ARGV[2]) end
`

/** @internal */
export const acquire = Redis.script(
  (
    run: string,
    store: string,
    options: { readonly owner: string; readonly ttl: string; readonly takeOver: boolean; readonly gone: string }
  ) => [run, store, options.owner, options.ttl, options.takeOver ? "1" : "0", options.gone],
  {
    numberOfKeys: 2,
    lua: `${prelude}
local ttl = tonumber(ARGV[2])
local token, owner, expiresAt, abandoned, entries = unpack(
  redis.call("HMGET", KEYS[1], "token", "owner", "expiresAt", "abandoned", "entries"))
local exists = redis.call("EXISTS", KEYS[1]) == 1
if exists and not (tonumber(token) and tonumber(abandoned) and tonumber(entries)) then
  return {"corrupt", "its token or its counts are not there"}
end
if owner then
  if not tonumber(expiresAt) then return {"corrupt", "the end of its lease is not there"} end
  local left = tonumber(expiresAt) - now
  if left > 0 and ARGV[3] == "0" and token ~= ARGV[4] then
    return {"held", token, owner, expiresAt, text(left)}
  end
end
redis.call("HSETNX", KEYS[2], "format", "${knownFormat}")
local granted = redis.call("HINCRBY", KEYS[2], "token", 1)
-- The counter was lost: it must not go back behind what is known.
if exists and granted <= tonumber(token) then
  granted = tonumber(token) + 1
  redis.call("HSET", KEYS[2], "token", text(granted))
end
local count = owner and tonumber(abandoned) + 1 or 0
redis.call("HSET", KEYS[1], "token", text(granted), "abandoned", text(count), "from", "",
  "owner", ARGV[1], "expiresAt", text(now + ttl), "updatedAt", text(now))
if not exists then
  redis.call("HSET", KEYS[1], "status", "running", "entries", "0", "createdAt", text(now), "born", text(granted))
end
if not exists or tonumber(entries) == 0 then
  redis.call("PEXPIRE", KEYS[1], text(ttl + ${idle}))
end
return {"granted", text(granted), text(count)}
`
  }
).withReturnType<
  | readonly ["granted", token: string, abandoned: string]
  | readonly ["held", token: string, owner: string, expiresAt: string, remaining: string]
  | readonly ["corrupt", detail: string]
>()

/** @internal */
export const renew = Redis.script(
  (run: string, token: number, owner: string, ttl: string, recovered: boolean) => [
    run,
    token,
    owner,
    ttl,
    recovered ? "1" : "0"
  ],
  {
    numberOfKeys: 1,
    lua: `${held}
local ttl = tonumber(ARGV[3])
local token, owner, entries = unpack(redis.call("HMGET", KEYS[1], "token", "owner", "entries"))
if isFenced(token, owner) then return {"fenced"} end
redis.call("HSET", KEYS[1], "owner", ARGV[2], "expiresAt", text(now + ttl), "updatedAt", text(now))
if ARGV[4] == "1" then redis.call("HSET", KEYS[1], "abandoned", "0") end
if entries == "0" then redis.call("PEXPIRE", KEYS[1], text(ttl + ${idle})) end
return {"done"}
`
  }
).withReturnType<readonly ["done"] | Refused>()

/** @internal */
export const release = Redis.script((run: string, token: number, owner: string) => [run, token, owner], {
  numberOfKeys: 1,
  lua: `${held}
local token, owner, entries = unpack(redis.call("HMGET", KEYS[1], "token", "owner", "entries"))
if isFenced(token, owner) then return {"fenced"} end
if entries == "0" then
  redis.call("UNLINK", KEYS[1])
else
  redis.call("HDEL", KEYS[1], "owner", "expiresAt")
  redis.call("HSET", KEYS[1], "updatedAt", text(now))
end
return {"done"}
`
}).withReturnType<readonly ["done"] | Refused>()

/** @internal */
export const append = Redis.script(
  (
    run: string,
    index: string,
    lease: { readonly runId: string; readonly token: number },
    owner: string,
    position: number,
    status: string,
    records: ReadonlyArray<string>
  ) => [run, index, lease.token, owner, position, status, lease.runId, ...records],
  {
    numberOfKeys: 2,
    // What can fail comes before the first write, for Redis takes nothing back.
    lua: `${held}
local token, owner, length, from, born, there = unpack(
  redis.call("HMGET", KEYS[1], "token", "owner", "entries", "from", "born", ARGV[3]))
if isFenced(token, owner) then return {"fenced"} end
local entries, position, first = tonumber(length), tonumber(ARGV[3]), 6
if not entries or not tonumber(born) then return {"corrupt", "its counts are not there"} end
local count = #ARGV - first + 1
if position ~= entries then
  local repeated = from == ARGV[3] and position + count == entries
  for i = 0, count - 1 do
    repeated = repeated and redis.call("HGET", KEYS[1], text(position + i)) == ARGV[first + i]
  end
  if not repeated then return {"taken", length} end
  -- Written once more, so that this connection has something to wait for where replicas have to have it.
  redis.call("HSET", KEYS[1], "from", from)
  return {"done"}
end
if there then return {"corrupt", "it has a record " .. ARGV[3] .. " that it does not count"} end
if position == 0 then
  redis.call("ZADD", KEYS[2], born, ARGV[5])
  redis.call("PERSIST", KEYS[1])
end
for i = 1, count - 1 do
  redis.call("HSET", KEYS[1], text(position + i), ARGV[first + i])
end
local last = {ARGV[3], ARGV[first], "entries", text(position + count), "from", ARGV[3]}
if ARGV[4] ~= "" then
  last[7], last[8], last[9], last[10] = "status", ARGV[4], "updatedAt", text(now)
end
redis.call("HSET", KEYS[1], unpack(last))
return {"done"}
`
  }
).withReturnType<readonly ["done"] | readonly ["taken", length: string] | Refused>()

/** @internal */
export const remove = Redis.script(
  (run: string, index: string, lease: { readonly runId: string; readonly token: number }, owner: string) => [
    run,
    index,
    lease.token,
    owner,
    lease.runId
  ],
  {
    numberOfKeys: 2,
    lua: `${held}
local token, owner = unpack(redis.call("HMGET", KEYS[1], "token", "owner"))
if isFenced(token, owner) then return {"fenced"} end
redis.call("ZREM", KEYS[2], ARGV[3])
redis.call("UNLINK", KEYS[1])
return {"done"}
`
  }
).withReturnType<readonly ["done"] | Refused>()

/**
 * A page of the runs, the oldest first: ids and, after each, its place.
 *
 * @internal
 */
export const page = Redis.script((index: string, after: string, limit: number) => [index, after, limit], {
  numberOfKeys: 1,
  // Here and not by a command of its own, whose answer has another shape in each version of the protocol.
  lua: `return redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[1], "+inf", "WITHSCORES", "LIMIT", 0, ARGV[2])`
}).withReturnType<ReadonlyArray<string>>()
