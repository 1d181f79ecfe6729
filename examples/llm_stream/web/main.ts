/** The page that shows an answer while it is generated. The address names the answer, so a reload continues it. */

import { type Channel, Fanway } from "@fanway/client";
import { call, getToken, logIn, me } from "#shared/backend";
import "#shared/page.css";

type Push = { token: string } | { done: true };

interface Loaded {
  question: string;
  text: string;
  done: boolean;
  position: string;
}

const element = (id: string): HTMLElement => document.getElementById(id)!;
const ready = connect();

async function connect() {
  if (!me()) await logIn("visitor");
  const { gateway } = await call<{ gateway: string }>("/config");
  return new Fanway<{ "answer:*": Push }>(gateway, { getToken, client: { name: "llm-example" } });
}

function finish(): void {
  element("state").textContent = "done";
  element("stop").hidden = true;
}

let shown: Channel<Push> | undefined;

async function follow(id: string): Promise<void> {
  const fanway = await ready;
  shown?.close();
  element("answer").hidden = element("stop").hidden = false;
  const answer = fanway.channel(`answer:${id}`, {
    // The text so far, and the position after which the tokens continue: nothing is missing, nothing comes twice.
    async loadState() {
      const { question, text, done, position } = await call<Loaded>(`/answers/${id}`);
      element("question").textContent = question;
      element("text").textContent = text;
      element("state").textContent = "…";
      if (done) finish();
      return { position };
    },
  });
  shown = answer;
  answer.on("message", ({ data }) => {
    if ("done" in data) finish();
    else element("text").append(data.token);
  });
  element("stop").onclick = () => void call(`/answers/${id}/stop`, {});
}

element("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = String(new FormData(event.currentTarget as HTMLFormElement).get("text"));
  await ready;
  const { id } = await call<{ id: string }>("/ask", { text });
  location.hash = id;
  await follow(id);
});

if (location.hash.length > 1) void follow(location.hash.slice(1));
