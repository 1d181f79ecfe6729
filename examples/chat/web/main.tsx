/** The page of the chat. */

import { Fanway } from "@fanway/client";
import { FanwayProvider, useChannel, useConnection, usePresence } from "@fanway/client/react";
import { type FormEvent, StrictMode, useCallback, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import { call, getToken, logIn, me } from "#shared/backend";
import "#shared/page.css";
import "./chat.css";

interface ChatMessage {
  id: string;
  user: string;
  text: string;
  at: number;
}

const room = new URLSearchParams(location.search).get("room") ?? "lobby";
const { gateway } = await call<{ gateway: string }>("/config");
const fanway = new Fanway<{ "chat:*": ChatMessage }>(gateway, { getToken, client: { name: "chat-example" } });

/** Return the messages of the room by their id, and what sends one. */
function useRoom(room: string) {
  const [messages, setMessages] = useState<ReadonlyMap<string, ChatMessage>>(new Map());
  const [pending, setPending] = useState<ReadonlyMap<string, ChatMessage>>(new Map());
  const add = (added: readonly ChatMessage[]) => {
    setMessages((known) => new Map([...known, ...added.map((message) => [message.id, message] as const)]));
    setPending((known) => new Map([...known].filter(([id]) => !added.some((message) => message.id === id))));
  };
  const { state } = useChannel<ChatMessage>(`chat:${room}`, {
    onMessage: ({ data }) => add([data]),
    // What is in the database, and the position from which the gateway continues; again after a gap.
    loadState: async () => {
      const loaded = await call<{ position: string; messages: ChatMessage[] }>(`/rooms/${room}/messages`);
      add(loaded.messages);
      return { position: loaded.position };
    },
  });
  const send = useCallback(
    async (text: string) => {
      const message = { id: crypto.randomUUID(), user: me()!, text, at: Date.now() / 1000 };
      setPending((known) => new Map([...known, [message.id, message]]));
      // Under the same id as often as needed: the backend stores and publishes it once.
      for (let wait = 500; ; wait = Math.min(2 * wait, 8_000)) {
        try {
          return await call(`/rooms/${room}/messages`, { id: message.id, text });
        } catch {
          await new Promise((resolve) => setTimeout(resolve, wait * Math.random()));
        }
      }
    },
    [room],
  );
  return { messages: [...messages.values()], pending: [...pending.values()], send, state };
}

const CONNECTION_TEXTS: Record<string, string> = {
  connecting: "Connecting …",
  waiting: "The connection is lost. Messages that you miss arrive when it is back.",
  suspended: "There has been no connection for a while. The page keeps trying.",
  stopped: "You are logged out.",
};

function Connection() {
  return (
    <p role="status" className="warn" id="connection">
      {CONNECTION_TEXTS[useConnection()] ?? ""}
    </p>
  );
}

function Members() {
  const names = [...new Set(usePresence(`chat:${room}`).map(({ info, user }) => (info as { name?: string })?.name ?? user))];
  return (
    <section className="card" aria-label="Who is here">
      <ul className="members">
        {names.sort().map((name) => (
          <li key={name}>{name}</li>
        ))}
      </ul>
    </section>
  );
}

function Room() {
  const { messages, pending, send } = useRoom(room);
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    list.current?.scrollTo(0, list.current.scrollHeight);
  }, [messages.length, pending.length]);
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const field = event.currentTarget.elements.namedItem("text") as HTMLInputElement;
    if (field.value.trim()) void send(field.value.trim());
    field.value = "";
  };
  return (
    <>
      <h1>Room {room}</h1>
      <Connection />
      <Members />
      <section className="card">
        <ul className="messages" ref={list} aria-live="polite" aria-label="Messages">
          {messages.map((message) => (
            <Message key={message.id} message={message} />
          ))}
          {pending.map((message) => (
            <Message key={message.id} message={message} pending />
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

function Message({ message: { user, text, at }, pending }: { message: ChatMessage; pending?: boolean }) {
  return (
    <li className={[user === me() && "mine", pending && "pending"].filter(Boolean).join(" ")}>
      <div className="soft">
        {user}, {pending ? "not sent yet" : new Date(at * 1000).toLocaleTimeString()}
      </div>
      <span className="text">{text}</span>
    </li>
  );
}

function LogIn({ done }: { done: () => void }) {
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    await logIn((event.currentTarget.elements.namedItem("name") as HTMLInputElement).value.trim());
    done();
  };
  return (
    <section className="card">
      <h1>What is your name?</h1>
      <form onSubmit={submit}>
        <input name="name" aria-label="Your name" required maxLength={40} pattern="\w[\w \-]*" autoFocus />
        <button>Join</button>
      </form>
    </section>
  );
}

function App() {
  const [name, setName] = useState(me());
  return name ? <Room /> : <LogIn done={() => setName(me())} />;
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <FanwayProvider client={fanway}>
      <App />
    </FanwayProvider>
  </StrictMode>,
);
