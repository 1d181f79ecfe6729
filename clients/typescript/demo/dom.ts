/** The few helpers that the page needs to reach its elements. */

/** Return the element with that id, which index.html has. */
export const $ = <Type extends HTMLElement = HTMLElement>(id: string): Type => document.getElementById(id) as Type;

export function element<Name extends keyof HTMLElementTagNameMap>(name: Name, className = "", text = ""): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Show *text* in an outcome below a form or a button; errors in red. */
export function showOutcome(id: string, text: string, { failed = false } = {}): void {
  $(id).textContent = text;
  $(id).classList.toggle("failed", failed);
}

/** Return *count* with its noun: "1 message", "2 messages". */
export const counted = (count: number, noun = "message"): string => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
