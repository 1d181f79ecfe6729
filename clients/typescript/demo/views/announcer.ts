/** Tells users of a screen reader what arrives, in one sentence every few seconds at most. */

import { counted } from "../dom.js";

const QUIET_MS = 4_000;

export class Announcer {
  private _count = 0;
  private _loads = 0;
  private _last = "";
  private _timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly _region: HTMLElement) {}

  /** A message from *name* arrived; without *text* it is one of the load. */
  heard(name: string, text?: string): void {
    if (text === undefined) this._loads++;
    else {
      this._count++;
      this._last = `${name}: ${text.slice(0, 200)}`;
    }
    this._timer ??= setTimeout(() => this._say(), QUIET_MS);
  }

  private _say(): void {
    this._timer = undefined;
    const said = [];
    if (this._count > 1) said.push(`${counted(this._count, "new message")}, the last from ${this._last}`);
    else if (this._count) said.push(this._last);
    if (this._loads) said.push(`${counted(this._loads)} of a backend`);
    this._region.textContent = said.join("; ");
    this._count = this._loads = 0;
  }
}
