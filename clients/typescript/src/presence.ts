/** Who is in a channel, kept up to date. */

import type { Channel } from "./channel.js";
import type { Fanway } from "./client.js";
import { Emitter } from "./emitter.js";
import type { Member, PresenceReply } from "./wire.js";

/**
 * The members of a channel: complete when `ready`, then changed by joins and leaves, and loaded again after a gap or a
 * lost connection.
 */
export class LivePresence {
  /** By the id of the connection. */
  readonly members: ReadonlyMap<string, Member>;
  private readonly _byConnection = new Map<string, Member>();
  private readonly _channel: Channel;
  private readonly _emitter = new Emitter((error) => console.error(error));
  /** Whether the list was complete once. */
  ready = false;

  private _loads = 0;

  constructor(
    private readonly _fanway: Fanway<any>,
    name: string,
  ) {
    this.members = this._byConnection;
    this._channel = _fanway.channel(name, { presence: true }) as Channel;
    this._channel.on("members", (members) => this._replace(members));
    this._channel.on("join", (member) => this._set(member));
    this._channel.on("update", (member) => this._set(member));
    this._channel.on("leave", (member) => {
      if (this._byConnection.delete(member.connection)) this._changed();
    });
    this._channel.on("gap", () => this._reload());
  }

  /** Users who are here, each once; anonymous members by their connection. */
  get users(): Map<string, Member> {
    return new Map([...this._byConnection.values()].map((member) => [member.user || member.connection, member]));
  }

  /** Call *listener* after each change; return a function that ends it. */
  onChange(listener: (presence: LivePresence) => void): () => void {
    return this._emitter.on("change", listener);
  }

  close(): void {
    this._loads++;
    this._emitter.clear();
    this._channel.close();
  }

  private _reload(attempt = 0, load = ++this._loads): void {
    const { connection, subscriptions } = this._fanway._internals;
    connection.call<PresenceReply>(
      { type: "presence", channel: this._channel.name, members: true },
      ({ members }) => {
        if (load === this._loads) this._replace(members ?? []);
      },
      (error) => {
        // After a lost connection, or without a subscription, the next subscription brings the list.
        if (!error.retryable || load !== this._loads) return;
        subscriptions._retry(() => load === this._loads && this._reload(attempt + 1, load), attempt, error.retryAfter);
      },
    );
  }

  private _replace(members: readonly Member[]): void {
    this._loads++; // a list that is being loaded is older
    this._byConnection.clear();
    for (const member of members) this._byConnection.set(member.connection, member);
    this.ready = true;
    this._changed();
  }

  private _set(member: Member): void {
    this._byConnection.set(member.connection, member);
    this._changed();
  }

  private _changed(): void {
    this._emitter.emit("change", this);
  }
}
