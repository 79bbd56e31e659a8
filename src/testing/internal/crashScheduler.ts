import type * as Fiber from "effect/Fiber"
import type * as Scheduler from "effect/Scheduler"

/**
 * Runs the fibers of one process, and stops them all between two operations: nothing of a killed process runs any more,
 * not even a finalizer. An interruption would run those, and would wait for what may not be interrupted.
 *
 * @internal
 */
export class ProcessScheduler implements Scheduler.Scheduler {
  readonly executionMode: "sync" | "async"
  private readonly parent: Scheduler.Scheduler
  private stopped = false
  private waiting = 0
  private readonly held: Array<() => void> = []

  constructor(parent: Scheduler.Scheduler) {
    this.parent = parent
    this.executionMode = parent.executionMode
  }

  /** Whether every fiber waits for something that is none of them. */
  isQuiet(): boolean {
    return this.waiting === 0
  }

  stop(): void {
    this.stopped = true
  }

  /** Lets go on what was stopped. */
  resume(): void {
    this.stopped = false
    for (const task of this.held.splice(0)) task()
  }

  // The run loop of a fiber asks before every operation.
  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.stopped || this.parent.shouldYield(fiber)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    const dispatcher = this.parent.makeDispatcher()
    const scheduleTask = (task: () => void, priority: number): void => {
      const later = () => scheduleTask(task, priority)
      if (this.stopped) {
        this.held.push(later)
        return
      }
      this.waiting++
      dispatcher.scheduleTask(() => {
        this.waiting--
        if (this.stopped) this.held.push(later)
        else task()
      }, priority)
    }
    return { scheduleTask, flush: () => dispatcher.flush() }
  }
}
