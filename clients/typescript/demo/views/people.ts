/** The members of the room, and the last joins and leaves. */

import { element } from "../dom.js";
import { label, nameOf, type Person } from "./labels.js";

const MAX_MEMBERS = 50;
const MAX_EVENTS = 3;

export interface PeopleView {
  list: HTMLElement;
  count: HTMLElement;
  events: HTMLElement;
}

export class People {
  /** The connection of this page. */
  self: string | undefined;
  private _members: readonly Person[] = [];
  private _frame = 0;

  constructor(private readonly _view: PeopleView) {}

  /** Forget members and events: another room is shown. */
  clear(): void {
    this._view.events.replaceChildren();
    this.show([]);
  }

  show(members: readonly Person[]): void {
    this._members = members;
    this._view.list.setAttribute("aria-busy", "false");
    this._frame ||= requestAnimationFrame(() => this._draw());
  }

  /** Mark the shown members as outdated: the connection is lost. */
  markOutdated(): void {
    this._view.list.setAttribute("aria-busy", "true");
  }

  event(kind: "joined" | "left", member: Person): void {
    if (member.connection === this.self) return;
    const { events } = this._view;
    events.prepend(element("li", kind, `${nameOf(member, this.self)} ${kind}`));
    while (events.childElementCount > MAX_EVENTS) events.lastElementChild!.remove();
  }

  private _draw(): void {
    this._frame = 0;
    const { list, count } = this._view;
    const isSelf = (member: Person) => Number(member.connection === this.self);
    const first = [...this._members].sort((a, b) => isSelf(b) - isSelf(a)).slice(0, MAX_MEMBERS);
    list.replaceChildren(...first.map((member) => label("li", member, this.self)));
    const more = this._members.length - first.length;
    if (more) list.append(element("li", "", `and ${more.toLocaleString("en")} more`));
    count.textContent = this._members.length.toLocaleString("en");
  }
}
