import * as Redis from "effect/persistence/Redis"
import { prelude } from "./redisStore.ts"

// All records are one hash, "revision:JSON" by id. Beside it are sorted sets of ids, by time or by revision, for whatever is
// asked for in an order. They change in one script with the record.

/**
 * How old the layout is that this release knows.
 *
 * @internal
 */
export const knownFormat = 1

/** @internal */
export interface Keys {
  readonly store: string
  readonly records: string
  readonly runs: string
  /** By time of submission: all, and those without a recorded outcome. */
  readonly submitted: string
  readonly waiting: string
  /** By revision: all, those without a recorded outcome, and those whose run is to hear of it. */
  readonly revisions: string
  readonly undecided: string
  readonly undelivered: string
  /** By the time when it will be over, or was. */
  readonly deadlines: string
  readonly ended: string
}

const all = (keys: Keys): ReadonlyArray<string> => [
  keys.store,
  keys.records,
  keys.runs,
  keys.submitted,
  keys.waiting,
  keys.revisions,
  keys.undecided,
  keys.undelivered,
  keys.deadlines,
  keys.ended
]

const count = 10

const named = `${prelude}
local store, records, runs = KEYS[1], KEYS[2], KEYS[3]
local submitted, waiting = KEYS[4], KEYS[5]
local revisions, undecided, undelivered = KEYS[6], KEYS[7], KEYS[8]
local deadlines, ended = KEYS[9], KEYS[10]
-- If the counter was lost, it must not go back behind what is known.
local function nextRevision()
  local last = tonumber(redis.call("ZREVRANGE", revisions, 0, 0, "WITHSCORES")[2] or "0")
  local known = tonumber(redis.call("HGET", store, "revision") or "0")
  local revision = text(math.max(last, known) + 1)
  redis.call("HSET", store, "revision", revision)
  return revision
end
`

/** @internal */
export interface Written {
  readonly id: string
  readonly record: string
  readonly submittedAt: number
  readonly expiresAt: number | undefined
}

/** @internal */
export const insert = Redis.script(
  (keys: Keys, channel: string, run: { readonly key: string; readonly id: string | undefined }, record: Written) => [
    ...all(keys),
    run.key,
    channel,
    record.id,
    record.record,
    record.submittedAt,
    record.expiresAt ?? "",
    run.id ?? "",
    run.id === undefined ? "0" : "1"
  ],
  {
    numberOfKeys: count + 1,
    lua: `${named}
local channel, id, record, submittedAt, expiresAt, runId, hasRun = unpack(ARGV)
local found = redis.call("HGET", records, id)
if found then
  -- Written once more, so that this connection has something to wait for where replicas have to have it.
  redis.call("HSET", records, id, found)
  return {"found", found}
end
redis.call("HSETNX", store, "format", "${knownFormat}")
local revision = nextRevision()
redis.call("HSET", records, id, revision .. ":" .. record)
redis.call("ZADD", submitted, submittedAt, id)
redis.call("ZADD", waiting, submittedAt, id)
redis.call("ZADD", revisions, revision, id)
redis.call("ZADD", undecided, revision, id)
if expiresAt ~= "" then redis.call("ZADD", deadlines, expiresAt, id) end
if hasRun == "1" then
  redis.call("HSET", runs, id, runId)
  redis.call("ZADD", KEYS[${count + 1}], submittedAt, id)
end
redis.call("PUBLISH", channel, revision)
return {"inserted", revision}
`
  }
).withReturnType<readonly ["found", record: string] | readonly ["inserted", revision: string]>()

/** @internal */
export const replace = Redis.script(
  (
    keys: Keys,
    channel: string,
    expected: number,
    outcome: { readonly endedAt: number | undefined; readonly undelivered: boolean },
    record: Written
  ) => [
    ...all(keys),
    channel,
    record.id,
    record.record,
    record.submittedAt,
    record.expiresAt ?? "",
    expected,
    outcome.endedAt ?? "",
    outcome.undelivered ? "1" : "0"
  ],
  {
    numberOfKeys: count,
    lua: `${named}
local channel, id, record, submittedAt, expiresAt, expected, endedAt, isUndelivered = unpack(ARGV)
local found = redis.call("HGET", records, id)
if not found or string.match(found, "^(%d+):") ~= expected then return {"changed"} end
local revision = nextRevision()
redis.call("HSET", records, id, revision .. ":" .. record)
redis.call("ZADD", revisions, revision, id)
if endedAt == "" then
  redis.call("ZADD", waiting, submittedAt, id)
  redis.call("ZADD", undecided, revision, id)
  if expiresAt ~= "" then redis.call("ZADD", deadlines, expiresAt, id) end
  redis.call("ZREM", ended, id)
else
  redis.call("ZREM", waiting, id)
  redis.call("ZREM", undecided, id)
  redis.call("ZREM", deadlines, id)
  redis.call("ZADD", ended, endedAt, id)
end
if isUndelivered == "1" then
  redis.call("ZADD", undelivered, revision, id)
else
  redis.call("ZREM", undelivered, id)
end
redis.call("PUBLISH", channel, revision)
return {"written", revision}
`
  }
).withReturnType<readonly ["changed"] | readonly ["written", revision: string]>()

/**
 * A page of an order: of each its id, its place in the order, and its record, or nothing where that is lost.
 *
 * @internal
 */
export const page = Redis.script(
  (index: string, records: string, from: string, to: string, limit: number) => [index, records, from, to, limit],
  {
    numberOfKeys: 2,
    lua: `
local found = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[1], ARGV[2], "WITHSCORES", "LIMIT", 0, ARGV[3])
local answer = {}
for i = 1, #found, 2 do
  answer[#answer + 1] = {found[i], found[i + 1], redis.call("HGET", KEYS[2], found[i]) or ""}
end
return answer
`
  }
).withReturnType<ReadonlyArray<readonly [id: string, place: string, record: string]>>()

/**
 * How many wait for a decision, and since when the oldest of them does.
 *
 * @internal
 */
export const waiting = Redis.script((waiting: string, deadlines: string, now: number) => [waiting, deadlines, now], {
  numberOfKeys: 2,
  lua: `
local count = redis.call("ZCARD", KEYS[1]) - redis.call("ZCOUNT", KEYS[2], "-inf", ARGV[1])
local first = 0
while count > 0 do
  local some = redis.call("ZRANGE", KEYS[1], first, first + 99, "WITHSCORES")
  if #some == 0 then break end
  for i = 1, #some, 2 do
    local deadline = redis.call("ZSCORE", KEYS[2], some[i])
    if not deadline or tonumber(deadline) > tonumber(ARGV[1]) then return {tostring(count), some[i + 1]} end
  end
  first = first + 100
end
return {"0", ""}
`
}).withReturnType<readonly [count: string, oldest: string]>()

/**
 * What is over since before a time: ids and, after each, its run.
 *
 * @internal
 */
export const old = Redis.script(
  (keys: Keys, before: number, limit: number) => [...all(keys), before, limit],
  {
    numberOfKeys: count,
    lua: `${named}
local answer = {}
for _, index in ipairs({ended, deadlines}) do
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", index, "-inf", ARGV[1], "LIMIT", 0, ARGV[2])) do
    answer[#answer + 1] = {id, redis.call("HGET", runs, id) or ""}
  end
end
return answer
`
  }
).withReturnType<ReadonlyArray<readonly [id: string, run: string]>>()

/**
 * Removes those that are still over since before a time, and tells how many.
 *
 * @internal
 */
export const remove = Redis.script(
  (keys: Keys, runKeys: ReadonlyArray<string>, before: number, ids: ReadonlyArray<string>) => [
    ...all(keys),
    ...runKeys,
    before,
    ...ids
  ],
  {
    numberOfKeys: (_, runKeys) => count + runKeys.length,
    lua: `${named}
local removed = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local at = redis.call("ZSCORE", ended, id) or redis.call("ZSCORE", deadlines, id)
  if at and tonumber(at) <= tonumber(ARGV[1]) then
    redis.call("HDEL", records, id)
    redis.call("HDEL", runs, id)
    for _, index in ipairs({submitted, waiting, revisions, undecided, undelivered, deadlines, ended,
      KEYS[${count} + i - 1]}) do
      redis.call("ZREM", index, id)
    end
    removed = removed + 1
  end
end
return {"removed", tostring(removed)}
`
  }
).withReturnType<readonly ["removed", count: string]>()
