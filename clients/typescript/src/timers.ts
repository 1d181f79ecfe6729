/** The timers of one client, so that `close` can end them all. */

import type { Environment } from "./environment.js";

/** Return *env* with timers of its own, and a function that ends all of them. */
export function withOwnTimers(env: Environment): Environment & { clearTimers(): void } {
  const timers = new Set<unknown>();
  return {
    now: () => env.now(),
    random: () => env.random(),
    key: () => env.key(),
    online: () => env.online(),
    listen: (onEvent) => env.listen(onEvent),
    setTimer(callback, ms) {
      const timer = env.setTimer(() => {
        timers.delete(timer);
        callback();
      }, ms);
      timers.add(timer);
      return timer;
    },
    clearTimer(timer) {
      timers.delete(timer);
      env.clearTimer(timer);
    },
    clearTimers() {
      for (const timer of timers) env.clearTimer(timer);
      timers.clear();
    },
  };
}
