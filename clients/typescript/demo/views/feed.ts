/** The list of messages: bounded, rendered once per animation frame, and scrolled to its end unless the user scrolls back. */

import type { Message } from "@fanway/client";
import { numberOf } from "../absence.js";
import { counted, element } from "../dom.js";
import { isLoad } from "../load.js";
import type { Typed } from "../outbox.js";
import { label } from "./labels.js";

const MAX_ROWS = 500;
/** Characters of one message that are shown. */
const MAX_TEXT_LENGTH = 2_000;

export type Note = "lost" | "recovered" | "gap";

export class Feed {
  /** Functions that create the rows of the next frame. */
  private _rows: (() => HTMLElement)[] = [];
  private _echoes: HTMLElement[] | undefined;
  private _frame = 0;
  /** Whether the end stays in view. */
  private _atNewest = true;

  /** *newest* is the button that scrolls to the end; it is visible while the end is out of view. */
  constructor(
    private readonly _scroller: HTMLElement,
    private readonly _list: HTMLElement,
    private readonly _echoList: HTMLElement,
    private readonly _newest: HTMLElement,
  ) {
    _scroller.addEventListener("scroll", () => this._setAtNewest(this._isAtEnd()), { passive: true });
    _newest.addEventListener("click", () => {
      this._scrollToEnd();
      _scroller.focus();
    });
    new ResizeObserver(() => this._atNewest && this._scrollToEnd()).observe(_scroller);
  }

  message(message: Message, self: string | undefined, { recovered = false } = {}): void {
    this._add(() => messageRow(message, self, recovered));
  }

  /** Add a note between two messages. */
  note(kind: Note, text: string): void {
    this._add(() => {
      const row = element("li", `note ${kind}`);
      row.append(element("span", "", text));
      return row;
    });
  }

  /** Show after the last message what was typed and has not come back. */
  echoes(typed: readonly Typed[], { isConnected }: { isConnected: boolean }): void {
    this._echoes = typed.map((each) => echoRow(each, isConnected));
    this._frame ||= requestAnimationFrame(() => this._draw());
  }

  clear(): void {
    this._rows = [];
    this._list.replaceChildren();
    this._scrollToEnd();
  }

  private _add(row: () => HTMLElement): void {
    this._rows.push(row);
    // A background tab renders no frames: keep only the rows that it can still show.
    if (this._rows.length > 2 * MAX_ROWS) this._rows = this._rows.slice(-MAX_ROWS);
    this._frame ||= requestAnimationFrame(() => this._draw());
  }

  private _draw(): void {
    this._frame = 0;
    this._list.append(...this._rows.slice(-MAX_ROWS).map((row) => row()));
    this._rows = [];
    while (this._list.childElementCount > MAX_ROWS) this._list.firstElementChild!.remove();
    if (this._echoes) this._echoList.replaceChildren(...this._echoes);
    this._echoes = undefined;
    if (this._atNewest) this._scrollToEnd();
  }

  private _isAtEnd(): boolean {
    const { scrollHeight, scrollTop, clientHeight } = this._scroller;
    return scrollHeight - scrollTop - clientHeight < 48;
  }

  private _scrollToEnd(): void {
    this._scroller.scrollTop = this._scroller.scrollHeight;
    this._setAtNewest(true);
  }

  private _setAtNewest(atNewest: boolean): void {
    this._atNewest = atNewest;
    this._newest.hidden = atNewest;
  }
}

function messageRow({ data, from, id, tags, time }: Message, self: string | undefined, recovered: boolean): HTMLElement {
  const row = element("li", `message${recovered ? " missed" : ""}${isLoad(data) ? " load" : ""}`);
  const number = element("span", "number", id === undefined ? "–" : `#${numberOf(id)}`);
  if (id !== undefined) number.title = `message id ${id}`;
  const at = element("time", "", clock(time));
  if (time) at.dateTime = new Date(time).toISOString();
  const body = bodyOf(data);
  for (const [key, value] of Object.entries(tags ?? {})) body.append(element("span", "tag", `${key}: ${value}`));
  row.append(number, label("span", from, self), body, at);
  return row;
}

function echoRow({ text, id }: Typed, isConnected: boolean): HTMLElement {
  const row = element("li", "echo");
  const state = id !== undefined ? "stored" : isConnected ? "sending" : "waits";
  row.append(element("span", "number", "…"), element("span", "from", "you"), element("span", "text", text), element("span", "state", state));
  return row;
}

/** Show a string, or an object with nothing but a `text`, as text; everything else as JSON. */
function bodyOf(data: unknown): HTMLElement {
  if (isLoad(data)) return element("span", "data", `load ${data.load}`);
  const plain = typeof data === "string" ? data : onlyText(data);
  const text = plain ?? JSON.stringify(data);
  const rest = text.length - MAX_TEXT_LENGTH;
  const shown = rest > 0 ? `${text.slice(0, MAX_TEXT_LENGTH)} … (${counted(rest, "more character")})` : text;
  return element("span", plain === undefined ? "data json" : "data", shown);
}

/** Return the text of a message that has nothing else. */
export function onlyText(data: unknown): string | undefined {
  const hasOnlyText = typeof data === "object" && data !== null && Object.keys(data).join() === "text";
  const { text } = (hasOnlyText ? data : {}) as { text?: unknown };
  return typeof text === "string" ? text : undefined;
}

function clock(time: number | undefined): string {
  if (!time) return "–";
  const at = new Date(time);
  const two = (number: number) => String(number).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}
