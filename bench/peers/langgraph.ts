/**
 * LangGraph: a graph of one node that loops, whose saver writes a checkpoint before the next step starts.
 *
 * Its messages are plain texts, which cost it less than LangChain's message objects. Its SQLite saver asks for
 * better-sqlite3 12, which aborts on Node 24, and is given 13.
 */
import { Effect } from "effect"
import { sqliteBytes, temporaryFile } from "../support/files.ts"
import type { Implementation, Messages, Subject, Task } from "../support/journal.ts"
import { load } from "../support/peer.ts"
import { databaseBytes, temporaryDatabase } from "../support/postgres.ts"

interface State {
  readonly messages: Messages
}

interface Options {
  readonly configurable: { readonly thread_id: string }
  readonly durability: "sync"
  readonly recursionLimit: number
  readonly interruptBefore?: ReadonlyArray<string>
}

interface Graph {
  readonly addNode: (name: string, node: (state: State) => Partial<State>) => Graph
  readonly addEdge: (from: string, to: string) => Graph
  readonly addConditionalEdges: (from: string, to: (state: State) => string) => Graph
  readonly compile: (options: { readonly checkpointer: unknown }) => {
    readonly invoke: (input: State | null, options: Options) => Promise<State>
  }
}

interface LangGraph {
  readonly START: string
  readonly END: string
  readonly Annotation: {
    (
      channel: { readonly reducer: (left: Messages, right: Messages) => Messages; readonly default: () => Messages }
    ): unknown
    readonly Root: (channels: { readonly messages: unknown }) => unknown
  }
  readonly StateGraph: new(state: unknown) => Graph
}

const subject = Effect.fnUntraced(function*(checkpointer: unknown, bytes: Effect.Effect<number, unknown>) {
  const { Annotation, END, START, StateGraph } = yield* load<LangGraph>("@langchain/langgraph")
  const state = Annotation.Root({
    messages: Annotation({ reducer: (left, right) => [...left, ...right], default: () => [] })
  })

  const graph = (task: Task, last: string) =>
    new StateGraph(state)
      .addNode("message", ({ messages }) => ({ messages: [task.write(messages.length)] }))
      .addNode("finish", () => ({}))
      .addEdge(START, "message")
      .addConditionalEdges("message", ({ messages }) => messages.length < task.steps ? "message" : last)
      .addEdge("finish", END)
      .compile({ checkpointer })

  const options = (id: string, task: Task): Options => ({
    configurable: { thread_id: id },
    durability: "sync",
    recursionLimit: task.steps + 10
  })

  const made: Subject = {
    run: (id, task) =>
      Effect.promise(async () => (await graph(task, END).invoke({ messages: [] }, options(id, task))).messages),
    // A node more is there to stop before, with all messages in the last checkpoint.
    cut: (id, task) =>
      Effect.promise(async () => {
        const cut = graph(task, "finish")
        await cut.invoke({ messages: [] }, { ...options(id, task), interruptBefore: ["finish"] })
        return Effect.promise(async () => (await cut.invoke(null, options(id, task))).messages)
      }),
    bytes
  }
  return made
})

interface BetterSqlite3 {
  readonly default: new(filename: string) => {
    readonly pragma: (text: string) => unknown
    readonly close: () => void
  }
}

interface SqliteModule {
  readonly SqliteSaver: new(db: unknown) => { readonly setup: () => void }
}

const sqlite: Implementation = {
  name: "langgraph-sqlite",
  growing: true,
  open: Effect.gen(function*() {
    const { SqliteSaver } = yield* load<SqliteModule>("@langchain/langgraph-checkpoint-sqlite")
    const { default: Database } = yield* load<BetterSqlite3>("better-sqlite3")
    const filename = yield* temporaryFile("langgraph.db")
    const db = yield* Effect.acquireRelease(
      Effect.sync(() => new Database(filename)),
      (db) => Effect.sync(() => db.close())
    )
    const saver = new SqliteSaver(db)
    saver.setup()
    // The saver sets WAL; its driver leaves a commit in the log unsynced unless told otherwise.
    db.pragma("synchronous = FULL")
    return yield* subject(saver, sqliteBytes(filename))
  })
}

interface PostgresModule {
  readonly PostgresSaver: {
    readonly fromConnString: (url: string) => { readonly setup: () => Promise<void>; readonly end: () => Promise<void> }
  }
}

const postgres: Implementation = {
  name: "langgraph-postgres",
  growing: true,
  open: Effect.gen(function*() {
    const { PostgresSaver } = yield* load<PostgresModule>("@langchain/langgraph-checkpoint-postgres")
    const url = yield* temporaryDatabase
    const saver = yield* Effect.acquireRelease(
      Effect.sync(() => PostgresSaver.fromConnString(url)),
      (saver) => Effect.promise(() => saver.end())
    )
    yield* Effect.promise(() => saver.setup())
    return yield* subject(saver, databaseBytes(url))
  })
}

export const implementations: ReadonlyArray<Implementation> = [sqlite, postgres]
