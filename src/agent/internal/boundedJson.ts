/** @internal */
export * from "../../internal/boundedJson.ts"
