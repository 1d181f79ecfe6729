/** What the tests in Chromium look at: one client, its messages and states in the document. */

import { Fanway, type Message } from "../../src/index.js";
import { LivePresence } from "../../src/presence.js";

const query = new URLSearchParams(location.search);
const url = query.get("url")!;
const name = query.get("channel")!;
const token = query.get("token")!;

document.body.innerHTML = "<ol id=messages></ol><ol id=states></ol><ol id=gaps></ol><ol id=users></ol>";
const show = (list: string, text: string) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById(list)!.append(item);
};

const fanway = new Fanway(url, { getToken: () => token, retry: () => 200 });
fanway.on("state", ({ state }) => show("states", state));

async function follow(): Promise<void> {
  const channel = fanway.channel(name);
  channel.on("gap", ({ reason }) => show("gaps", reason));
  for await (const { data } of channel as AsyncIterable<Message>) show("messages", String(data));
}

if (query.has("presence")) {
  new LivePresence(fanway, name).onChange(({ users }) => {
    document.getElementById("users")!.textContent = [...users.keys()].sort().join();
  });
}

Object.assign(window, { fanway });
void follow();
