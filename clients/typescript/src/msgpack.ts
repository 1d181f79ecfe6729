/** The encoding MessagePack: `new Fanway(url, { codec: msgpack })`. Needs the package `@msgpack/msgpack`. */

import { decode, encode } from "@msgpack/msgpack";
import type { Codec } from "./transport.js";

export const msgpack: Codec = {
  subprotocol: "fanway.v1.msgpack",
  encode: (message) => encode(message, { ignoreUndefined: true }),
  decode: (data) => decode(data as ArrayBuffer),
};
