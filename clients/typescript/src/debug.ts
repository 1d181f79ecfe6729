/**
 * Writes down what a client does, without its tokens:
 *
 *     const fanway = new Fanway(url, debug(options, (event, details) => console.debug(event, details)));
 */

import type { FanwayOptions } from "./client.js";
import { type Codec, json, type Transport, webSocket } from "./transport.js";

/** - `open`, `opened`, `closed`: a connection, with `transport`, `url`, `code`, `reason`. - `sent`, `received`: a message. */
export type DebugEvent = "open" | "opened" | "closed" | "sent" | "received";

export type DebugLog = (event: DebugEvent, details: unknown) => void;

/** Return *options* with everything that goes to and comes from the gateway told to *log*; tokens are `"(redacted)"`. */
export function debug(options: FanwayOptions = {}, log: DebugLog = (event, details) => console.debug("fanway", event, details)): FanwayOptions {
  const transports = options.transports ?? [webSocket(options.WebSocket)];
  return {
    ...options,
    codec: logged(options.codec ?? json, log),
    transports: transports.map((transport) => wrapped(transport, log)),
  };
}

function logged(codec: Codec, log: DebugLog): Codec {
  return {
    subprotocol: codec.subprotocol,
    encode(message) {
      log("sent", redacted(message));
      return codec.encode(message);
    },
    decode(data) {
      const message = codec.decode(data);
      log("received", redacted(message));
      return message;
    },
  };
}

function wrapped(transport: Transport, log: DebugLog): Transport {
  const { name } = transport;
  return {
    name,
    ...(transport.codec && { codec: logged(transport.codec, log) }),
    connect(url, codec, events) {
      log("open", { transport: name, url });
      return transport.connect(url, codec, {
        ...events,
        open() {
          log("opened", { transport: name });
          events.open();
        },
        close(code, reason, rejection) {
          log("closed", { transport: name, code, reason, ...rejection });
          events.close(code, reason, rejection);
        },
      });
    },
  };
}

/** The message without its tokens: those of commands, not what is called so in the application's data. */
function redacted(message: unknown): unknown {
  if (typeof message !== "object" || message === null) return message;
  const { subs } = message as { subs?: Record<string, object> };
  return {
    ...hidden(message),
    ...(subs && { subs: Object.fromEntries(Object.entries(subs).map(([channel, sub]) => [channel, hidden(sub)])) }),
  };
}

const hidden = (fields: object): object => ({ ...fields, ...("token" in fields && fields.token !== undefined && { token: "(redacted)" }) });
