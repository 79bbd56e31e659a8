import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { sha256 } from "../../internal/sha256.ts"
import { type Entry, RunStatus, type RunSummary } from "../CheckpointStore.ts"
import { indexOfNewline, isUnterminated, lastIndexOfNewline, line, textOf } from "./fileLines.ts"
import { Damaged, type Edges } from "./fileSeries.ts"

/** The format of the files, which the first line of each tells. */
const format = 1

/**
 * A file that a newer release wrote.
 *
 * @internal
 */
export class TooNew extends Data.TaggedError("TooNew")<{ readonly file: string; readonly found: number }> {
  readonly known = format
  override get message() {
    return `${this.file} is of format ${this.found}, this release knows ${format}`
  }
}

const millis = Schema.Finite
const expiry = Schema.NullOr(millis)

const Claim = Schema.Struct({
  format: Schema.Literal(format),
  run: Schema.String,
  number: Schema.Finite,
  token: Schema.Finite,
  owner: Schema.String,
  at: millis,
  expiresAt: expiry,
  abandoned: Schema.Finite
})

// What a record adds to its run is one short line, and every line tells all that `list` wants to know: how many records
// there are with it, the status and when it changed, the end of the lease (null when it was given back), how many
// leases were abandoned, and the new records, each as step and body.
const Change = Schema.Tuple([
  Schema.Finite,
  Schema.Literals([...RunStatus.literals, "removed"]),
  millis,
  expiry,
  Schema.Finite,
  Schema.Array(Schema.Tuple([Schema.String, Schema.String]))
])
type Change = typeof Change.Type

// Which file the journal goes on from, and how much of that one counts. `lost` stands in for what could not be read.
const Opening = Schema.Struct({
  after: Schema.Finite,
  bytes: Schema.Finite,
  createdAt: millis,
  lost: Schema.optionalKey(Schema.Literal(true)),
  state: Change
})

const decodeFormat = Schema.decodeResult(Schema.fromJsonString(Schema.Struct({ format: Schema.Finite })))
const decodeClaim = Schema.decodeResult(Schema.fromJsonString(Claim))
const decodeOpening = Schema.decodeResult(Schema.fromJsonString(Opening))
const decodeChange = Schema.decodeResult(Schema.fromJsonString(Change))

/** @internal */
export type Claim = typeof Claim.Type
/** @internal */
export type Opening = typeof Opening.Type

/**
 * What changes about a run from line to line.
 *
 * @internal
 */
export interface State {
  readonly entries: number
  readonly status: RunStatus | "removed"
  readonly updatedAt: number
  readonly expiresAt: number | null
  readonly abandoned: number
}

const stateOf = ([entries, status, updatedAt, expiresAt, abandoned]: Change): State => ({
  entries,
  status,
  updatedAt,
  expiresAt,
  abandoned
})

const changeOf = (
  { abandoned, entries, expiresAt, status, updatedAt }: State,
  records: ReadonlyArray<Entry> = []
): Change => [entries, status, updatedAt, expiresAt, abandoned, records.map(({ body, step }) => [step, body])]

// Plain data, which JSON writes as the schemas read it.
/** @internal */
export const claimLine = (claim: Omit<Claim, "format">): Uint8Array => line(JSON.stringify({ format, ...claim }))
/** @internal */
export const openingLine = (opening: Omit<Opening, "state">, state: State): Uint8Array =>
  line(JSON.stringify({ ...opening, state: changeOf(state) }))
/** @internal */
export const changeLine = (state: State, records?: ReadonlyArray<Entry>): Uint8Array =>
  line(JSON.stringify(changeOf(state, records)))

/**
 * The name of a run's files: something to recognise it by, and a digest that no other run has. Lower case, because some
 * file systems do not tell it from upper case.
 *
 * @internal
 */
export const nameOf = (runId: string): string => {
  const digest = sha256(runId).slice(0, 40)
  const readable = runId.slice(0, 200).toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "")
  return `${digest.slice(0, 2)}/${readable === "" ? "" : `${readable.slice(0, 40)}-`}${digest}`
}

/**
 * The newest file of a run that is open.
 *
 * @internal
 */
export interface Segment {
  readonly number: number
  readonly claim: Claim
  readonly claimed: Uint8Array
  readonly opening: Opening
  readonly state: State
  readonly end: number
  readonly size: number
}

/**
 * A run as its newest files tell it: the claim that holds it, if it was not given back, and where its journal ends.
 *
 * @internal
 */
export interface View {
  readonly top: { readonly number: number; readonly claim: Claim | undefined } | undefined
  readonly open: Segment | undefined
  readonly lease: { readonly owner: string; readonly expiresAt: number } | undefined
  readonly abandoned: number
  readonly updatedAt: number
}

type Unreadable = Damaged | TooNew

const unexpected = (file: string, offset: number) =>
  new Damaged({ file, offset, detail: "a line is not what belongs there" })

const lost = (file: string, offset: number) =>
  new Damaged({ file, offset, detail: "the files before it could not be read when the run was taken over" })

const readClaim = (file: string, number: number, name: string, text: string): Result.Result<Claim, Unreadable> => {
  const found = decodeFormat(text)
  if (Result.isSuccess(found) && found.success.format > format) {
    return Result.fail(new TooNew({ file, found: found.success.format }))
  }
  const claim = decodeClaim(text)
  if (Result.isFailure(claim)) return Result.fail(unexpected(file, 0))
  return claim.success.number === number && nameOf(claim.success.run) === name
    ? Result.succeed(claim.success)
    : Result.fail(new Damaged({ file, offset: 0, detail: "it was written as another file" }))
}

/** @internal */
export const viewOf = Effect.fnUntraced(function*(
  name: string,
  { open, top }: { readonly open: Edges | undefined; readonly top: Edges | undefined }
): Effect.fn.Return<View, Unreadable> {
  const claimOf = ({ claim, file, number }: Edges) =>
    claim === undefined
      ? Effect.succeed(undefined)
      : Effect.fromResult(readClaim(file, number, name, claim))
  const segmentOf = Effect.fnUntraced(function*(edges: Edges) {
    const { claimed, end, file, last, lastAt, number, opening, size } = edges
    const claim = yield* claimOf(edges)
    if (claim === undefined || opening === undefined) return undefined
    const opened = yield* Effect.mapError(
      Effect.fromResult(decodeOpening(opening)),
      () => unexpected(file, claimed.length)
    )
    if (opened.lost) return yield* lost(file, claimed.length)
    const change = last === undefined
      ? opened.state
      : yield* Effect.mapError(Effect.fromResult(decodeChange(last)), () => unexpected(file, lastAt))
    const segment: Segment = { number, claim, claimed, opening: opened, state: stateOf(change), end, size }
    return segment
  })
  const segment = open === undefined ? undefined : yield* segmentOf(open)
  if (top === undefined) return { top, open: segment, lease: undefined, abandoned: 0, updatedAt: 0 }
  const claim = segment?.number === top.number ? segment.claim : yield* claimOf(top)
  // Of a claim without an opening nobody knows more than itself.
  const { abandoned, expiresAt, updatedAt } = segment?.number === top.number
    ? segment.state
    : { abandoned: claim?.abandoned ?? 0, expiresAt: claim?.expiresAt ?? null, updatedAt: claim?.at ?? 0 }
  return {
    top: { number: top.number, claim },
    open: segment,
    lease: claim === undefined || expiresAt === null ? undefined : { owner: claim.owner, expiresAt },
    abandoned,
    updatedAt
  }
})

/**
 * What is told about the run of a view, unless there is none: removed, or without a record so far.
 *
 * @internal
 */
export const summaryOf = ({ lease, open, updatedAt }: View): RunSummary | undefined => {
  if (open === undefined || open.state.status === "removed" || open.state.entries === 0) return undefined
  const { claim: { run }, opening: { createdAt }, state: { entries, status } } = open
  return { runId: run, status, entries, createdAt, updatedAt, lease }
}

/**
 * The records that one line of a journal holds.
 *
 * @internal
 */
export interface Batch {
  readonly token: number
  readonly entries: ReadonlyArray<Entry>
}

/**
 * What a whole file holds of a journal. `entries` is how long the journal is with it.
 *
 * @internal
 */
export interface File {
  readonly opening: Opening
  readonly batches: ReadonlyArray<Batch>
  readonly entries: number
}

/**
 * Reads the whole of a file, up to where the next one goes on from it.
 *
 * @internal
 */
export const parse = (
  name: string,
  { bytes, cut, file, number }: {
    readonly file: string
    readonly number: number
    readonly bytes: Uint8Array
    readonly cut: number | undefined
  }
): Result.Result<File, Unreadable> => {
  const fail = (offset: number, detail: string) => Result.fail(new Damaged({ file, offset, detail }))
  const end = cut ?? lastIndexOfNewline(bytes) + 1
  if (cut === undefined) {
    if (isUnterminated(bytes.subarray(end))) return fail(bytes.length - 1, "a line does not end with a newline")
  } else if (bytes.length < cut) return fail(bytes.length, `it ends there, and is ${cut} bytes long for the next file`)
  else if (indexOfNewline(bytes, cut - 1) !== cut - 1) return fail(cut - 1, "a line does not end with a newline")
  const batches: Array<Batch> = []
  let token = 0
  let opening: Opening | undefined
  let length = 0
  for (let offset = 0, count = 0; offset < end; count++) {
    const next = indexOfNewline(bytes, offset) + 1
    const text = textOf(bytes.subarray(offset, next - 1))
    if (text === undefined) return fail(offset, "the checksum of a line is wrong")
    if (count === 0) {
      const claim = readClaim(file, number, name, text)
      if (Result.isFailure(claim)) return Result.fail(claim.failure)
      token = claim.success.token
    } else if (count === 1) {
      const opened = decodeOpening(text)
      if (Result.isFailure(opened)) return Result.fail(unexpected(file, offset))
      opening = opened.success
      if (opening.lost) return Result.fail(lost(file, offset))
      length = opening.state[0]
    } else {
      const change = decodeChange(text)
      if (Result.isFailure(change)) return Result.fail(unexpected(file, offset))
      const [entries, , , , , records] = change.success
      if (entries !== length + records.length) return fail(offset, `record ${length} is missing`)
      if (records.length > 0) {
        batches.push({
          token,
          entries: records.map(([step, body], index) => ({ position: length + index, step, body }))
        })
      }
      length = entries
    }
    offset = next
  }
  return opening === undefined
    ? fail(end, "it has no second line")
    : Result.succeed({ opening, batches, entries: length })
}
