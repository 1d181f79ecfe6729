/** The page with the notification bell. */

import { Fanway } from "@fanway/client";
import { call, getToken, logIn, me } from "#shared/backend";
import "#shared/page.css";
import "./notifications.css";

interface Notification {
  id: number;
  text: string;
  read: boolean;
}

type Push = { type: "new"; id: number; text: string } | { type: "read"; id: number };

const element = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E;
const notifications = new Map<number, Notification>();
let opened = false;

function show(): void {
  const newest = [...notifications.values()].sort((one, other) => other.id - one.id);
  element("count").textContent = String(newest.filter(({ read }) => !read).length);
  element("notifications").replaceChildren(
    ...newest.map(({ text, read }) => Object.assign(document.createElement("li"), { textContent: text, className: read ? "" : "unread" })),
  );
}

function apply(push: Push): void {
  if (push.type === "new") notifications.set(push.id, { read: false, ...notifications.get(push.id), id: push.id, text: push.text });
  else for (const each of notifications.values()) if (each.id <= push.id) each.read = true;
  show();
}

async function begin(): Promise<void> {
  element("log-in").hidden = true;
  element("page").hidden = false;
  const { gateway } = await call<{ gateway: string }>("/config");
  const fanway = new Fanway<Record<string, Push>>(gateway, { getToken, client: { name: "notifications-example" } });
  fanway.on("state", ({ state }) => (element("connection").textContent = state === "waiting" || state === "suspended" ? "No connection: the page keeps trying." : ""));
  const personal = fanway.channel(`@${me()!.toLowerCase()}`, {
    // What is in the database, and the position from which the gateway continues.
    async loadState() {
      const loaded = await call<{ position: string; notifications: Notification[] }>("/notifications");
      for (const each of loaded.notifications) notifications.set(each.id, each);
      show();
      return { position: loaded.position };
    },
  });
  personal.on("message", ({ data }) => apply(data));
}

element("bell").addEventListener("click", () => {
  opened = !opened;
  element("list").hidden = !opened;
  element("bell").setAttribute("aria-expanded", String(opened));
  const newest = Math.max(0, ...notifications.keys());
  if (opened && newest) void call("/read", { id: newest });
});

element<HTMLFormElement>("notify").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.currentTarget as HTMLFormElement;
  void call("/notify", Object.fromEntries(new FormData(form)));
  form.reset();
});

element<HTMLFormElement>("log-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  await logIn(String(new FormData(event.currentTarget as HTMLFormElement).get("name")).trim());
  await begin();
});

if (me()) void begin();
