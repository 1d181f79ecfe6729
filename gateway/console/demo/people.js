/** Who is present in the channel, and who came and went last. */

import { label, nameOf } from "./who.js";

const SHOWN = 50;
const NEWS = 3;

export class People {
    #members = new Map(); // connection -> member, in the order of their coming
    #view;
    #frame = 0;
    self = null;

    /** `view` has the elements `list`, `count` and `news`. */
    constructor(view) {
        this.#view = view;
    }

    /** Begin with another channel, of which nothing is known yet. */
    clear() {
        this.#view.news.replaceChildren();
        this.reset([]);
    }

    /** Show *members*; undefined where the channel does not say. */
    reset(members) {
        this.#members = new Map((members ?? []).map((member) => [member.connection, member]));
        this.#view.list.setAttribute("aria-busy", "false");
        this.#redraw();
    }

    /** What is shown may no longer be so. */
    doubt() {
        this.#view.list.setAttribute("aria-busy", "true");
    }

    join(member) {
        if (this.#members.has(member.connection)) return;
        this.#members.set(member.connection, member);
        if (member.connection !== this.self) this.#tell("joined", member);
        this.#redraw();
    }

    leave(member) {
        if (!this.#members.delete(member.connection)) return;
        this.#tell("left", member);
        this.#redraw();
    }

    #tell(what, member) {
        const item = document.createElement("li");
        item.className = what;
        item.textContent = `${nameOf(member, this.self)[0]} ${what}`;
        this.#view.news.prepend(item);
        while (this.#view.news.childElementCount > NEWS) this.#view.news.lastElementChild.remove();
    }

    #redraw() {
        this.#frame ||= requestAnimationFrame(() => this.#draw());
    }

    #draw() {
        this.#frame = 0;
        const { list, count } = this.#view;
        const shown = [...this.#members.values()].sort((a, b) => this.#isSelf(b) - this.#isSelf(a)).slice(0, SHOWN);
        list.replaceChildren(...shown.map((member) => label(document.createElement("li"), member, this.self)));
        if (this.#members.size > SHOWN) {
            const more = document.createElement("li");
            more.textContent = `and ${(this.#members.size - SHOWN).toLocaleString()} more`;
            list.append(more);
        }
        count.textContent = this.#members.size.toLocaleString();
    }

    #isSelf(member) {
        return Number(member.connection === this.self);
    }
}
