/** Sends one after the other, each until the backend has answered. */

import { HttpError } from "#shared/backend";

const LONGEST_WAIT = 8_000;

export class Outbox {
  private last: Promise<unknown> = Promise.resolve();
  private readonly closing = new AbortController();

  /** Return what *send* returns, called after all before it; again if it fails, unless the backend refuses it. */
  add<Answer>(send: () => Promise<Answer>): Promise<Answer> {
    const sent = this.last.then(() => this.repeat(send));
    this.last = sent.catch(() => undefined);
    return sent;
  }

  /** Send nothing any more. */
  close(): void {
    this.closing.abort(new Error("closed"));
  }

  private async repeat<Answer>(send: () => Promise<Answer>): Promise<Answer> {
    for (let wait = 500; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      this.closing.signal.throwIfAborted();
      try {
        return await send();
      } catch (error) {
        if (error instanceof HttpError && !error.temporary) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, wait * Math.random()));
    }
  }
}
