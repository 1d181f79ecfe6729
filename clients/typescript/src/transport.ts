/** How bytes travel. A transport knows nothing of the protocol but the names of its encodings. */

export interface Codec {
  /** The subprotocol of the WebSocket that names this encoding. */
  readonly subprotocol: string;
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

export interface LinkEvents {
  open(): void;
  message(data: string | ArrayBuffer): void;
  /** The last call; a connection that could not be opened has the code 1006. */
  close(code: number, reason: string, rejection?: Rejection): void;
}

/** One open connection. After `close`, no event is called any more. */
export interface Link {
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code: number, reason: string): void;
}

export interface Transport {
  readonly name: string;
  /** Open a connection to *url*; errors arrive as `events.close`. */
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
