/**
 * What the bench of checkpoints asks of everyone: the same runs of the same messages, and the same proof of them.
 */
import { Data, Effect, type Scope } from "effect"
import { isDeepStrictEqual } from "node:util"

/** The characters of one message. */
export const messageLength = 500

const words = ("the of and to in that it was for on are as with they at be this from have or by one had not but what " +
  "all were when we there can an your which their said if do will each about how up out them then she many some so " +
  "these would other into has more her two like him see time could no make than first been its who now people my " +
  "made over did down only way find use may water long little very after words called just where most know").split(" ")

/** Text of chosen length that reads, and can be compressed, about as prose does; the same in every process. */
const prose = (length: number, seed: number): string => {
  let state = seed + 1
  let text = ""
  while (text.length < length) {
    // The minimal standard generator of Lehmer.
    state = (state * 48_271) % 2_147_483_647
    text += `${words[state % words.length]} `
  }
  return text.slice(0, length)
}

const messages: Array<string> = []
const message = (index: number): string => messages[index] ??= prose(messageLength, index)

/** The steps of one run, each of which writes one more message of a growing list. */
export interface Task {
  readonly steps: number
  /** What the step of this index does; it counts its calls. */
  readonly write: (index: number) => string
  /** How many steps were really carried out, and not given back from a journal. */
  readonly written: () => number
}

export const makeTask = (steps: number): Task => {
  let written = 0
  return {
    steps,
    write: (index) => {
      written++
      return message(index)
    },
    written: () => written
  }
}

/** The messages that a run of a task ends with. */
export type Messages = ReadonlyArray<string>

/** One implementation, opened on a storage of its own. */
export interface Subject {
  /** Runs a task from its start to its end. */
  readonly run: (id: string, task: Task) => Effect.Effect<Messages, unknown>
  /** Runs all steps of a task and stops before its end, as a crash does; gives what resumes the run and ends it. */
  readonly cut: (id: string, task: Task) => Effect.Effect<Effect.Effect<Messages, unknown>, unknown>
  /** The size of what is stored, where it is stored at all. */
  readonly bytes?: Effect.Effect<number, unknown>
}

/** Who is measured. */
export interface Implementation {
  readonly name: string
  readonly open: Effect.Effect<Subject, unknown, Scope.Scope>
  /** Whether each step costs more than the one before, so that long runs are repeated less often. */
  readonly growing?: boolean
}

/** Says that an implementation cannot be measured on this machine, and what would change that. */
export class LeftOut extends Data.TaggedError("LeftOut")<{ readonly reason: string; readonly remedy: string }> {
  override get message() {
    return `${this.reason}; to measure it: ${this.remedy}`
  }
}

/** Fails if a run did not end with the messages of its task, or carried out other steps than expected of it. */
export const prove = (task: Task, found: Messages, written: number): Effect.Effect<void> => {
  const expected = Array.from({ length: task.steps }, (_, index) => message(index))
  if (!isDeepStrictEqual(found, expected)) {
    return Effect.die(new Error(`a run of ${task.steps} steps ended with ${found.length} messages, or with others`))
  }
  return task.written() === written ? Effect.void : Effect.die(
    new Error(`${task.written()} steps were carried out where ${written} should have been`)
  )
}
