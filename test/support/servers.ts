/** Where the real servers are that tests use, by default on loopback. */
export const databaseUrl = process.env["DATABASE_URL"] ?? "postgres://postgres@127.0.0.1:5432/test"

export const redisUrl = process.env["REDIS_URL"] ?? "redis://127.0.0.1:6379"
