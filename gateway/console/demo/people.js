/** The members of the channel, and the last joins and leaves. */

import { label, nameOf } from "./labels.js";

const MAX_MEMBERS = 50;
const MAX_EVENTS = 3;

export class People {
    #members = new Map(); // connection -> member, in the order of their joins
    #view;
    #frame = 0;
    self = null;

    /** `view` has the elements `list`, `count` and `events`. */
    constructor(view) {
        this.#view = view;
    }

    /** Forget members and events: another channel is shown. */
    clear() {
        this.#view.events.replaceChildren();
        this.reset([]);
    }

    /** Show `members`; undefined where the channel has no presence. */
    reset(members) {
        this.#members = new Map((members ?? []).map((member) => [member.connection, member]));
        this.#view.list.setAttribute("aria-busy", "false");
        this.#redraw();
    }

    /** Mark the shown members as outdated: the connection is lost. */
    markOutdated() {
        this.#view.list.setAttribute("aria-busy", "true");
    }

    join(member) {
        if (this.#members.has(member.connection)) return;
        this.#members.set(member.connection, member);
        if (member.connection !== this.self) this.#addEvent("joined", member);
        this.#redraw();
    }

    leave(member) {
        if (!this.#members.delete(member.connection)) return;
        this.#addEvent("left", member);
        this.#redraw();
    }

    #addEvent(event, member) {
        const item = document.createElement("li");
        item.className = event;
        item.textContent = `${nameOf(member, this.self)[0]} ${event}`;
        this.#view.events.prepend(item);
        while (this.#view.events.childElementCount > MAX_EVENTS) this.#view.events.lastElementChild.remove();
    }

    #redraw() {
        this.#frame ||= requestAnimationFrame(() => this.#draw());
    }

    #draw() {
        this.#frame = 0;
        const { list, count } = this.#view;
        const first = [...this.#members.values()].sort((a, b) => this.#isSelf(b) - this.#isSelf(a)).slice(0, MAX_MEMBERS);
        list.replaceChildren(...first.map((member) => label(document.createElement("li"), member, this.self)));
        if (this.#members.size > MAX_MEMBERS) {
            const more = document.createElement("li");
            more.textContent = `and ${(this.#members.size - MAX_MEMBERS).toLocaleString()} more`;
            list.append(more);
        }
        count.textContent = this.#members.size.toLocaleString();
    }

    #isSelf(member) {
        return Number(member.connection === this.self);
    }
}
