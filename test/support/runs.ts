/** How often a property is tried: a few times with every test run, and often in `npm run test:full`. */
export const runs = (short: number, long: number): number => isFull ? long : short

/** Whether this is `npm run test:full`. */
export const isFull = process.env["EFFECT_RESILIENCE_FULL"] === "1"
