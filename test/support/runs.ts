/** How often a property is tried: a few times with every test run, and often in `npm run test:full`. */
export const runs = (short: number, long: number): number =>
  process.env["EFFECT_RESILIENCE_FULL"] === "1" ? long : short
