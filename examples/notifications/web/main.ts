/** The page with the notification bell. */

import { Fanway } from "@fanway/client";
import { get, getToken, logIn, logOut, type Me, post, whoAmI } from "#shared/backend";
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

function show(): void {
  const newest = [...notifications.values()].sort((one, other) => other.id - one.id);
  element("count").textContent = String(newest.filter(({ read }) => !read).length);
  element("notifications").replaceChildren(
    ...newest.map(({ text, read }) => Object.assign(document.createElement("li"), { textContent: text, className: read ? "" : "unread" })),
  );
}

/** Change what is shown; a push that the loaded state has already changes nothing. */
function apply(push: Push): void {
  if (push.type === "new") notifications.set(push.id, { read: false, ...notifications.get(push.id), id: push.id, text: push.text });
  else for (const each of notifications.values()) if (each.id <= push.id) each.read = true;
  show();
}

function showLogIn(): void {
  notifications.clear();
  element("page").hidden = true;
  element("log-in").hidden = false;
}

/** Show the bell: one client, from the login to the logout. */
function showBell({ channel, gateway }: Me): void {
  element("log-in").hidden = true;
  element("page").hidden = false;
  const fanway = new Fanway<Record<string, Push>>(gateway, { getToken, client: { name: "notifications-example" } });
  fanway.on("state", ({ state }) => {
    element("connection").textContent = state === "waiting" || state === "suspended" ? "No connection: the page keeps trying." : "";
    // Closed below, or `getToken` says that the session has ended, or somebody disconnected the user.
    if (state === "stopped") showLogIn();
  });
  const personal = fanway.channel(channel, {
    // What is in the database, and the position from which the gateway continues; again after a gap.
    async loadState() {
      const loaded = await get<{ position: string; notifications: Notification[] }>("/notifications");
      for (const each of loaded.notifications) notifications.set(each.id, each);
      show();
      return { position: loaded.position };
    },
  });
  personal.on("message", ({ data }) => apply(data));
  element("leave").onclick = async () => {
    await logOut();
    await fanway.close();
  };
}

/** Run *action*; say so if it fails. */
async function tried(action: () => Promise<void>): Promise<void> {
  element("error").textContent = "";
  try {
    await action();
  } catch {
    element("error").textContent = "That did not work. Try again.";
  }
}

element("bell").addEventListener("click", () => {
  const opened = element("bell").getAttribute("aria-expanded") !== "true";
  element("list").hidden = !opened;
  element("bell").setAttribute("aria-expanded", String(opened));
  const newest = Math.max(0, ...notifications.keys());
  if (opened && newest) void tried(() => post("/read", { id: newest }));
});

element<HTMLFormElement>("notify").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.currentTarget as HTMLFormElement;
  const notification = Object.fromEntries(new FormData(form));
  form.reset(); // at once: Enter a second time does not send it again
  void tried(() => post("/notify", notification));
});

element<HTMLFormElement>("log-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = String(new FormData(event.currentTarget as HTMLFormElement).get("name")).trim();
  void tried(async () => showBell(await logIn(name)));
});

await tried(async () => {
  const me = await whoAmI();
  if (me) showBell(me);
  else showLogIn();
});
