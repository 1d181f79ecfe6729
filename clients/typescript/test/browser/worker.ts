/** The client in a Web Worker; what it receives goes to the page. */

import { Fanway } from "../../src/index.js";

const query = new URLSearchParams(location.search);
const fanway = new Fanway(query.get("url")!, { getToken: () => query.get("token")! });
fanway.on("state", ({ state }) => postMessage(state));
fanway.channel(query.get("channel")!).on("message", ({ data }) => postMessage(data));
