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
  private readonly byConnection = new Map<string, Member>();
  private readonly channel: Channel;
  private readonly emitter = new Emitter((error) => console.error(error));
  /** Whether the list was complete once. */
  ready = false;

  constructor(fanway: Fanway<any>, name: string) {
    this.members = this.byConnection;
    this.channel = fanway.channel(name, { presence: true }) as Channel;
    this.channel.on("members", (members) => this.replace(members));
    this.channel.on("join", (member) => this.set(member));
    this.channel.on("update", (member) => this.set(member));
    this.channel.on("leave", (member) => {
      if (this.byConnection.delete(member.connection)) this.changed();
    });
    this.channel.on("gap", () => this.reload());
  }

  /** Users who are here, each once; anonymous members by their connection. */
  get users(): Map<string, Member> {
    return new Map([...this.byConnection.values()].map((member) => [member.user || member.connection, member]));
  }

  /** Call *listener* after each change; return a function that ends it. */
  onChange(listener: (presence: LivePresence) => void): () => void {
    return this.emitter.on("change", listener);
  }

  close(): void {
    this.emitter.clear();
    this.channel.close();
  }

  private reload(): void {
    this.channel.presence.get().then(
      ({ members }) => this.replace(members ?? []),
      () => {}, // the next subscription brings the list
    );
  }

  private replace(members: readonly Member[]): void {
    this.byConnection.clear();
    for (const member of members) this.byConnection.set(member.connection, member);
    this.ready = true;
    this.changed();
  }

  private set(member: Member): void {
    this.byConnection.set(member.connection, member);
    this.changed();
  }

  private changed(): void {
    this.emitter.emit("change", this);
  }
}
