import { describeWithRedis } from "../../support/redis.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { elapse, onRedis } from "../redisRuns.ts"

describeWithRedis("RedisCheckpointStore", () => {
  suite("Redis", onRedis, { elapse })
})
