/** A React application in StrictMode, which mounts every effect twice. */

import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Fanway } from "../../src/index.js";
import { FanwayProvider, useChannel, useConnection, useLatest, usePresence } from "../../src/react.js";

const query = new URLSearchParams(location.search);
const name = query.get("channel")!;
const client = new Fanway(query.get("url")!, { getToken: () => query.get("token")!, retry: () => 200 });
Object.assign(window, { client });

function Messages() {
  const { messages, state, publish } = useChannel<string>(name, { limit: 3, optimistic: query.has("optimistic") });
  return (
    <>
      <output id="channel">{state}</output>
      <ul id="messages">
        {messages.map(({ key, data, status }) => (
          <li key={key} data-status={status}>
            {data}
          </li>
        ))}
      </ul>
      <button id="publish" onClick={() => void publish("from the page")}>
        Publish
      </button>
    </>
  );
}

function Latest() {
  return <output id="latest">{String(useLatest(name)?.data ?? "")}</output>;
}

function Who() {
  const users = usePresence(name).map(({ user }) => user);
  return <output id="users">{users.sort().join()}</output>;
}

function App() {
  const [shown, setShown] = useState(true);
  return (
    <>
      <output id="connection">{useConnection()}</output>
      <button id="toggle" onClick={() => setShown(!shown)}>
        Toggle
      </button>
      {shown && <Messages />}
      {shown && <Latest />}
      <Who />
    </>
  );
}

document.body.innerHTML = "<div id=root></div>";
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <FanwayProvider client={client}>
      <App />
    </FanwayProvider>
  </StrictMode>,
);
