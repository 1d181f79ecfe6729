/** The name of the user of this window: from the link that opened it, or chosen, and kept for its lifetime. */

import type { Person } from "./views/labels.js";

const STORED = "fanway.name";
const NAMES = ["Ada", "Alan", "Barbara", "Dennis", "Edsger", "Frances", "Grace", "Hedy", "Joan", "Katherine", "Ken", "Margaret", "Niklaus", "Radia"];

export function ownName(): string {
  const linked = new URLSearchParams(location.search).get("name");
  const name = sessionStorage.getItem(STORED) ?? (linked?.trim().slice(0, 100) || randomOf(NAMES));
  sessionStorage.setItem(STORED, name);
  // A reload keeps the name; a link that is passed on must not.
  if (linked !== null) history.replaceState(null, "", location.pathname + location.hash);
  return name;
}

/** Connect under another name. */
export function rename(name: string): void {
  if (!name.trim()) return;
  sessionStorage.setItem(STORED, name.trim());
  location.reload();
}

/** Return a name for another window that none of *members* has. */
export function freeName(members: readonly Person[]): string {
  const taken = new Set(members.map(({ user }) => user).concat(ownName()));
  const free = NAMES.filter((name) => !taken.has(name));
  return randomOf(free.length ? free : NAMES);
}

const randomOf = (names: readonly string[]): string => names[Math.floor(Math.random() * names.length)]!;
