/** Names and colours of members and senders, the same everywhere on the page. */

import { element } from "../dom.js";

export interface Person {
  connection: string;
  user: string;
}

/** Return the name of a sender or member; undefined is a backend, which published over HTTP. */
export function nameOf(person: Person | undefined, self?: string): string {
  if (!person) return "backend";
  const name = person.user || person.connection.slice(0, 6);
  return person.connection === self ? `${name} (you)` : name;
}

/** Return an element with a coloured dot and the name. */
export function label<Name extends "li" | "span">(tag: Name, person: Person | undefined, self?: string): HTMLElementTagNameMap[Name] {
  const made = element(tag, "from");
  const dot = element("i", person ? "dot" : "dot server");
  dot.style.setProperty("--hue", String(hue(person?.user || person?.connection || "")));
  made.title = person ? `connection ${person.connection}` : "published over HTTP";
  made.append(dot, nameOf(person, self));
  return made;
}

function hue(text: string): number {
  let hash = 0;
  for (const letter of text) hash = (hash * 31 + letter.codePointAt(0)! * 7) >>> 0;
  return (hash * 47) % 360;
}
