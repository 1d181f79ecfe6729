/** The page that shows an answer while it is generated. The address names the answer, so a reload continues it. */

import { Fanway } from "@fanway/client";
import { get, getToken, HttpError, logIn, post, whoAmI } from "#shared/backend";
import "#shared/page.css";

type Push = { token: string } | { done: true; failed: boolean };

interface Answer {
  question: string;
  text: string;
  done: boolean;
  failed: boolean;
  position: string;
}

const element = (id: string): HTMLElement => document.getElementById(id)!;
let followed = "";
let leave = (): void => undefined;

/** Show the answer *id*; the one that was shown before is left. */
async function follow(id: string): Promise<void> {
  leave();
  followed = id;
  let answer = await get<Answer>(`/answers/${id}`);
  if (followed !== id) return; // another one was chosen meanwhile
  element("answer").hidden = false;
  element("question").textContent = answer.question;
  if (answer.done) return finish(answer); // nothing will follow

  element("text").textContent = answer.text;
  element("stop").hidden = false;
  element("stop").onclick = () => void tried(() => post(`/answers/${id}/stop`));
  element("state").textContent = "…";
  const channel = fanway.channel(`answer:${id}`, {
    // The text so far, and the position after which the tokens continue: nothing is missing, nothing comes twice.
    async loadState() {
      answer = await get<Answer>(`/answers/${id}`);
      element("text").textContent = answer.text;
      if (answer.done) finish(answer);
      return { position: answer.position };
    },
  });
  leave = () => channel.close();
  channel.on("message", ({ data }) => {
    if ("token" in data) element("text").append(data.token);
    else finish(data);
  });
}

/** Nothing follows: a text that is given is the whole answer. */
function finish({ text, failed }: { text?: string; failed: boolean }): void {
  leave();
  if (text !== undefined) element("text").textContent = text;
  element("state").textContent = failed ? "The answer ended with an error." : "done";
  element("stop").hidden = true;
}

/** Run *action*; say so if it fails. */
async function tried(action: () => Promise<void>): Promise<void> {
  element("error").textContent = "";
  try {
    await action();
  } catch (error) {
    const unknown = error instanceof HttpError && error.status === 404;
    element("error").textContent = unknown ? "There is no such answer." : "That did not work. Try again.";
  }
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = String(new FormData(event.currentTarget as HTMLFormElement).get("text"));
  void tried(async () => {
    const { id } = await post<{ id: string }>("/ask", { text });
    history.pushState(null, "", `#${id}`);
    await follow(id);
  });
});

const showAddress = () => void tried(async () => (location.hash.length > 1 ? follow(location.hash.slice(1)) : undefined));
addEventListener("popstate", showAddress); // back and forward, and an address that is typed

const { gateway } = (await whoAmI()) ?? (await logIn("visitor"));
const fanway = new Fanway<{ "answer:*": Push }>(gateway, { getToken, client: { name: "llm-example" } });
fanway.on("state", ({ state }) => {
  // The session has ended, or the gateway refuses the user.
  if (state === "stopped") element("error").textContent = "The connection has ended. Reload the page.";
});
element("ask").hidden = false;
showAddress();
