/** A network that the page can cut, between the client library and the browser's WebSocket. */

import { browser, type Environment, type PageEvent, type WebSocketConstructor } from "@fanway/client";

/** Milliseconds until an attempt without a network fails. */
const REFUSED_AFTER_MS = 50;

export class Network {
  /** The option `environment` of the client: a browser, which also says when this network is back. */
  readonly environment: Environment;
  /** The option `WebSocket` of the client. */
  readonly WebSocket: WebSocketConstructor;
  private readonly _open = new Set<Socket>();
  private _down = false;
  private _announce: (event: PageEvent) => void = () => {};

  constructor() {
    const connect = (socket: Socket, url: string, protocols?: string | string[]) => this._connect(socket, url, protocols);
    this.WebSocket = class extends Socket {
      constructor(url: string, protocols?: string | string[]) {
        super();
        connect(this, url, protocols);
      }
    };
    this.environment = {
      ...browser,
      listen: (onEvent) => {
        this._announce = onEvent;
        return browser.listen(onEvent);
      },
    };
  }

  /** Drop every socket without a Close frame that the client would see, and refuse new ones until `restore`. */
  cut(): void {
    this._down = true;
    for (const socket of [...this._open]) {
      this._open.delete(socket);
      socket.drop();
    }
  }

  /** Let sockets through again, and say so, as a browser does with the event `online`. */
  restore(): void {
    this._down = false;
    this._announce("online");
  }

  private _connect(socket: Socket, url: string, protocols?: string | string[]): void {
    if (this._down) return void setTimeout(() => socket.onclose?.({ code: 1006, reason: "" }), REFUSED_AFTER_MS);
    this._open.add(socket);
    socket.attach(new WebSocket(url, protocols), () => this._open.delete(socket));
  }
}

/** The part of a WebSocket that the client uses; what it does not hear of the real one after `drop` never happened. */
class Socket {
  binaryType = "arraybuffer";
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  private _real: WebSocket | undefined;

  attach(real: WebSocket, onClosed: () => void): void {
    this._real = real;
    real.binaryType = "arraybuffer";
    real.onopen = (event) => this.onopen?.(event);
    real.onmessage = (event) => this.onmessage?.(event);
    real.onerror = (event) => this.onerror?.(event);
    real.onclose = (event) => {
      onClosed();
      this.onclose?.(event);
    };
  }

  drop(): void {
    const real = this._real!;
    real.onopen = real.onmessage = real.onerror = real.onclose = null;
    real.close();
    this._real = undefined;
    this.onclose?.({ code: 1006, reason: "" });
  }

  send(data: string | Uint8Array<ArrayBuffer>): void {
    this._real?.send(data);
  }

  close(code?: number, reason?: string): void {
    this._real?.close(code, reason);
  }
}
