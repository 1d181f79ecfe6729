/** Who is in a channel, kept up to date. */

import type { Channel } from "./channel.js";
import type { Fanway } from "./client.js";
import { Emitter } from "./emitter.js";
import type { Member } from "./wire.js";

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

  constructor(fanway: Fanway<any>, name: string) {
    this.members = this._byConnection;
    this._channel = fanway.channel(name, { presence: true }) as Channel;
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
    this._emitter.clear();
    this._channel.close();
  }

  private _reload(): void {
    this._channel.presence.get().then(
      ({ members }) => this._replace(members ?? []),
      () => {}, // the next subscription brings the list
    );
  }

  private _replace(members: readonly Member[]): void {
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
