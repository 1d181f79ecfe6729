/** Messages that the user typed: shown at once, sent when there is a connection, kept over a reload of the page. */

import { Fanway, FanwayError } from "@fanway/client";
import { now } from "./views/latency.js";

/** Messages that may wait. */
const MAX_WAITING = 100;
const STORED = "fanway.unsent";
/** How long the client may try; the gateway remembers a key for five minutes. */
const TIMEOUT_MS = 280_000;

export interface Typed {
  channel: string;
  text: string;
  /** Makes another try of the same message harmless. */
  key: string;
  /** When it was typed, in milliseconds. */
  at: number;
  /** The message id, once the gateway has stored it. */
  id?: string;
  /** Whether the client is at it. */
  sending?: boolean;
}

export interface OutboxView {
  /** What is typed and has not come back. */
  onChange(echoes: readonly Typed[], waiting: number): void;
  onFailed(typed: Typed, error: FanwayError): void;
}

export class Outbox {
  /** Not known to be stored. */
  private _waiting: Typed[];
  /** Shown, because the message itself has not arrived yet. */
  private _echoes: Typed[];

  constructor(
    private readonly _fanway: Fanway,
    private readonly _view: OutboxView,
  ) {
    this._waiting = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
    this._echoes = [...this._waiting];
  }

  get full(): boolean {
    return this._waiting.length >= MAX_WAITING;
  }

  add(channel: string, text: string): void {
    const typed: Typed = { channel, text, key: this._key(), at: now() };
    this._waiting.push(typed);
    this._echoes.push(typed);
    void this._send(typed);
    this._changed();
  }

  /** Try what waits: there is a connection. */
  flush(): void {
    for (const typed of this._waiting) void this._send(typed);
    this._changed();
  }

  /** Return what this user typed as the message with this *id* and *text*, and forget it. */
  arrived(id: string | undefined, text: string): Typed | undefined {
    const typed = this._echoes.find((echo) => echo.id !== undefined && echo.id === id) ?? this._echoes.find((echo) => echo.id === undefined && echo.text === text);
    if (typed) this._forgetEcho(typed);
    return typed;
  }

  /** Forget what was stored before a gap: it may never arrive. */
  forgetStored(): void {
    this._echoes = this._echoes.filter(({ id }) => id === undefined);
    this._changed();
  }

  private async _send(typed: Typed): Promise<void> {
    if (typed.sending || this._fanway.state === "stopped") return;
    typed.sending = true;
    try {
      const { channel, text, key } = typed;
      const { id } = await this._fanway.channel(channel).publish({ text }, { key, timeout: TIMEOUT_MS });
      this._waiting = this._waiting.filter((it) => it !== typed);
      if (id === undefined) this._forgetEcho(typed);
      else typed.id = id;
    } catch (error) {
      const { code } = error as FanwayError;
      if (code === "stopped" || code === "timeout") return; // it waits for the next connection
      this._waiting = this._waiting.filter((it) => it !== typed);
      this._forgetEcho(typed);
      this._view.onFailed(typed, error as FanwayError);
    } finally {
      typed.sending = false;
      this._changed();
    }
  }

  private _forgetEcho(typed: Typed): void {
    this._echoes = this._echoes.filter((it) => it !== typed);
    this._changed();
  }

  private _changed(): void {
    sessionStorage.setItem(STORED, JSON.stringify(this._waiting.map(({ sending: _, ...typed }) => typed)));
    this._view.onChange(this._echoes, this._waiting.length);
  }

  private _key(): string {
    return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join("");
  }
}
