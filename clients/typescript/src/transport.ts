/** How bytes travel. A transport knows nothing of the protocol but the names of its encodings. */

export interface Codec {
  /** The subprotocol of the WebSocket that names this encoding. */
  readonly subprotocol: string;
  /** Fields that are undefined are left out. */
  encode(message: unknown): string | Uint8Array<ArrayBuffer>;
  decode(data: string | ArrayBuffer): unknown;
}

export const json: Codec = {
  subprotocol: "fanway.v1.json",
  encode: (message) => JSON.stringify(message),
  decode: (data) => JSON.parse(data as string),
};

/** What an HTTP answer said instead of opening the connection, on platforms that show it. */
export interface Rejection {
  status: number;
  /** Milliseconds, from the header `Retry-After`. */
  retryAfter?: number;
}

/** What a transport tells of one connection, each in a task of its own, never while `connect` or `send` runs. */
export interface LinkEvents {
  /** Commands can be sent; the client sends `connect` at once. */
  open(): void;
  /** One whole message, encoded as the codec says. */
  message(data: string | ArrayBuffer): void;
  /** A sign of life that is no message, for example a comment line of a stream. */
  alive(): void;
  /** The last call; a connection that could not be opened, or that broke, has the code 1006. */
  close(code: number, reason: string, rejection?: Rejection): void;
}

/** One connection. After `close`, no event is called any more. */
export interface Link {
  /** Send one command; called after `open`, in order. What cannot be sent ends the connection: `events.close`. */
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code: number, reason: string): void;
}

/**
 * A way to reach the gateway. The client is given a list, and tries one after the other until a message arrives by one;
 * it keeps to that one. All above, such as tokens, positions and delays, is the same for every transport.
 */
export interface Transport {
  /** For `stats` and logs. */
  readonly name: string;
  /** The only encoding that it can carry, where that is so; else the client's. */
  readonly codec?: Codec;
  /**
   * Open a connection to *url*, as the application gave it; `https://host` is to be taken for every transport.
   * Throws where the platform has nothing to connect with; every other error arrives as `events.close`.
   */
  connect(url: string, codec: Codec, events: LinkEvents): Link;
}

/** The part of WHATWG's WebSocket that is used; `ws` has it too. */
export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike;

/** Throw a `TypeError` if *url* cannot be that of a gateway. */
export function checkUrl(url: string): void {
  if (!/^(http|ws)s?:\/\/./i.test(url)) throw new TypeError(`"${url}" is not the URL of a gateway: expected https://host or wss://host/v1/ws`);
}

/** Return *url* with its scheme as `ws` or `wss`, and `/v1/ws` as its path where it has none. */
export function webSocketUrl(url: string): string {
  const parsed = new URL(url);
  parsed.protocol = parsed.protocol.replace(/^http/, "ws");
  if (parsed.pathname === "/") parsed.pathname = "/v1/ws";
  return parsed.href;
}

/** The transport over a WebSocket; *Constructor* is the platform's own where it is not given. */
export function webSocket(Constructor?: WebSocketConstructor): Transport {
  return {
    name: "websocket",
    connect(url, codec, events) {
      const Socket = Constructor ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
      if (!Socket) throw new TypeError("this platform has no WebSocket: pass one as the option WebSocket");
      const socket = new Socket(webSocketUrl(url), codec.subprotocol);
      socket.binaryType = "arraybuffer";
      const detach = () => {
        socket.onopen = socket.onmessage = socket.onclose = null;
      };
      socket.onopen = () => events.open();
      socket.onmessage = ({ data }) => events.message(data);
      socket.onclose = ({ code, reason }) => {
        detach();
        events.close(code, reason);
      };
      socket.onerror = () => {}; // a close follows; `ws` throws without a listener
      return {
        send: (data) => socket.send(data),
        close(code, reason) {
          detach();
          socket.close(code, reason);
        },
      };
    },
  };
}
