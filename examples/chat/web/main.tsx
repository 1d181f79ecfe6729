/** The page of the chat. */

import { Fanway } from "@fanway/client";
import { FanwayProvider, useChannel, useConnection, usePresence } from "@fanway/client/react";
import { type FormEvent, StrictMode, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import { get, getToken, HttpError, logIn, logOut, type Me, post, whoAmI } from "#shared/backend";
import "#shared/page.css";
import "./chat.css";
import { Outbox } from "./outbox";

interface ChatMessage {
  id: string;
  user: string;
  text: string;
  at: number;
  /** Its place in the room. */
  number: number;
}

/** A message that the backend does not have yet. */
interface Draft {
  id: string;
  text: string;
  /** Why the backend does not want it. */
  refused?: string;
}

const room = new URLSearchParams(location.search).get("room") ?? "lobby";
const root = createRoot(document.getElementById("root")!);

function showLogIn(): void {
  root.render(<LogIn />);
}

/** Show the room: one client, from the login to the logout. */
function showRoom(me: Me): void {
  const fanway = new Fanway<{ "chat:*": ChatMessage }>(me.gateway, { getToken, client: { name: "chat-example" } });
  const outbox = new Outbox();
  // Closed below, or `getToken` says that the session has ended, or somebody disconnected the user.
  fanway.on("state", ({ state }) => {
    if (state !== "stopped") return;
    outbox.close();
    showLogIn();
  });
  const leave = async () => {
    await logOut();
    await fanway.close();
  };
  root.render(
    <StrictMode>
      <FanwayProvider client={fanway}>
        <Room me={me} outbox={outbox} leave={leave} />
      </FanwayProvider>
    </StrictMode>,
  );
}

/** Return the messages of the room, those that are not sent yet, and what sends one. */
function useRoom(outbox: Outbox) {
  const [messages, setMessages] = useState<readonly ChatMessage[]>([]);
  const [drafts, setDrafts] = useState<readonly Draft[]>([]);
  const [error, setError] = useState("");
  // A message may come from the database, from the gateway, and as the answer to its sender: shown once, by its id.
  const add = (added: readonly ChatMessage[]) => {
    const ids = new Set(added.map(({ id }) => id));
    setMessages((known) => [...known.filter(({ id }) => !ids.has(id)), ...added].sort((one, other) => one.number - other.number));
    setDrafts((known) => known.filter(({ id }) => !ids.has(id)));
  };
  useChannel<ChatMessage>(`chat:${room}`, {
    onMessage: ({ data }) => add([data]),
    // What is in the database, and the position from which the gateway continues; again after a gap.
    loadState: async () => {
      try {
        const loaded = await get<{ position: string; messages: ChatMessage[] }>(`/rooms/${encodeURIComponent(room)}/messages`);
        add(loaded.messages);
        setError("");
        return { position: loaded.position };
      } catch (failure) {
        setError("The messages cannot be loaded. The page keeps trying.");
        throw failure;
      }
    },
  });
  const send = async (text: string) => {
    const draft: Draft = { id: crypto.randomUUID(), text };
    setDrafts((known) => [...known, draft]);
    try {
      // Under the same id as often as needed: the backend stores and publishes it once.
      add([await outbox.add(() => post<ChatMessage>(`/rooms/${encodeURIComponent(room)}/messages`, draft))]);
    } catch (failure) {
      const refused = failure instanceof HttpError ? `refused with ${failure.status}` : "not sent";
      setDrafts((known) => known.map((each) => (each.id === draft.id ? { ...each, refused } : each)));
    }
  };
  return { messages, drafts, send, error };
}

function Room({ me, outbox, leave }: { me: Me; outbox: Outbox; leave: () => void }) {
  const { messages, drafts, send, error } = useRoom(outbox);
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    list.current?.scrollTo(0, list.current.scrollHeight);
  }, [messages.length, drafts.length]);
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const field = event.currentTarget.elements.namedItem("text") as HTMLInputElement;
    if (field.value.trim()) void send(field.value.trim());
    field.value = "";
  };
  return (
    <>
      <header>
        <h1>Room {room}</h1>
        <button className="quiet" id="leave" onClick={leave}>
          Log out {me.name}
        </button>
      </header>
      <Connection />
      <p role="alert" className="warn">
        {error}
      </p>
      <Members />
      <section className="card">
        <ul className="messages" ref={list} aria-live="polite" aria-label="Messages">
          {messages.map(({ id, user, text, at }) => (
            <li key={id} className={user === me.name ? "mine" : ""}>
              <div className="soft">
                {user}, {new Date(at * 1000).toLocaleTimeString()}
              </div>
              <span className="text">{text}</span>
            </li>
          ))}
          {drafts.map(({ id, text, refused }) => (
            <li key={id} className="mine pending">
              <div className={refused ? "warn" : "soft"}>{refused ?? "not sent yet"}</div>
              <span className="text">{text}</span>
            </li>
          ))}
        </ul>
      </section>
      <form onSubmit={submit}>
        <input name="text" aria-label="Your message" autoComplete="off" maxLength={2000} />
        <button>Send</button>
      </form>
    </>
  );
}

const CONNECTION_TEXTS: Record<string, string> = {
  connecting: "Connecting …",
  waiting: "The connection is lost. Messages that you miss arrive when it is back.",
  suspended: "There has been no connection for a while. The page keeps trying.",
};

function Connection() {
  return (
    <p role="status" className="warn" id="connection">
      {CONNECTION_TEXTS[useConnection()] ?? ""}
    </p>
  );
}

function Members() {
  // By user: somebody who is here with two devices has two connections.
  const names = new Map(usePresence(`chat:${room}`).map(({ info, user }) => [user, (info as { name?: string })?.name ?? user]));
  return (
    <section className="card" aria-label="Who is here">
      <ul className="members">
        {[...names].sort().map(([user, name]) => (
          <li key={user}>{name}</li>
        ))}
      </ul>
    </section>
  );
}

function LogIn() {
  const [error, setError] = useState("");
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const field = event.currentTarget.elements.namedItem("name") as HTMLInputElement;
    try {
      showRoom(await logIn(field.value.trim()));
    } catch (failure) {
      const unfit = failure instanceof HttpError && failure.status === 422;
      setError(unfit ? "A name has letters, digits and spaces." : "That did not work. Try again.");
    }
  };
  return (
    <section className="card">
      <h1>What is your name?</h1>
      <form onSubmit={submit}>
        <input name="name" aria-label="Your name" required maxLength={40} autoFocus />
        <button>Join</button>
      </form>
      <p role="alert" className="warn">
        {error}
      </p>
    </section>
  );
}

const me = await whoAmI();
if (me) showRoom(me);
else showLogIn();
