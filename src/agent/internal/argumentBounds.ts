/** @internal */
export * from "../../internal/argumentBounds.ts"
