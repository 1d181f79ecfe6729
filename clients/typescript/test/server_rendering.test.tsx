import { renderToString } from "react-dom/server";
import { expect, it } from "vitest";
import { Fanway } from "../src/index.js";
import { FanwayProvider, useChannel, useConnection, usePresence } from "../src/react.js";
import { FakeGateway } from "../src/testing.js";

function Page() {
  const { messages, state } = useChannel("news");
  return <p>{`${useConnection()} ${state} ${messages.length} ${usePresence("news").length}`}</p>;
}

it("renders on a server without connecting", () => {
  const gateway = new FakeGateway();
  const client = new Fanway("ws://fake", gateway.options);
  const html = renderToString(
    <FanwayProvider client={client}>
      <Page />
    </FanwayProvider>,
  );
  expect(html).toBe("<p>idle idle 0 0</p>");
  expect(client.state).toBe("idle");
  expect(gateway.clock.pending).toBe(0);
});
