/** React hooks. One client per application, given to `FanwayProvider`; hooks share its subscriptions. */

import { createContext, createElement, type ReactNode, useCallback, useContext, useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { Channel } from "./channel.js";
import type { Fanway } from "./client.js";
import type { FanwayError } from "./errors.js";
import { type OptimisticMessage, OptimisticMessages } from "./optimistic.js";
import { LivePresence } from "./presence.js";
import type { Published, PublishOptions } from "./publisher.js";
import type { State } from "./states.js";
import type { ChannelOptions, Gap, Message, SubscriptionState } from "./subscription.js";
import type { Member } from "./wire.js";

const Context = createContext<Fanway<any> | undefined>(undefined);

/** Gives *client* to every hook below it. Who made the client closes it. */
export function FanwayProvider({ client, children }: { client: Fanway<any>; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: client }, children);
}

/** Return the client of the nearest `FanwayProvider`. */
export function useFanway<Channels = Record<string, any>>(): Fanway<Channels> {
  const client = useContext(Context);
  if (!client) throw new Error("useFanway needs a <FanwayProvider client={…}> above it");
  return client as Fanway<Channels>;
}

/** Return the state of the connection; `idle` on a server. */
export function useConnection(): State {
  const client = useFanway();
  return useSyncExternalStore(
    useCallback((changed) => client.on("state", changed), [client]),
    () => client.state,
    () => "idle",
  );
}

export interface UseChannelOptions<Data> extends Pick<ChannelOptions, "rewind" | "token" | "loadState"> {
  /** How many of the newest messages to keep; 100 by default. */
  limit?: number;
  onMessage?: (message: Message<Data>) => void;
  onGap?: (gap: Gap) => void;
  /** False: not subscribed. */
  enabled?: boolean;
  /** Whether `publish` shows its message at once, as `pending`; it is taken out again if it is rejected. */
  optimistic?: boolean;
}

/** `key` names the message for React; `status` is `sent` but for one that this component publishes. */
export type ShownMessage<Data> = OptimisticMessage<Data>;

export interface ChannelView<Data> {
  /** The newest last. */
  messages: readonly ShownMessage<Data>[];
  state: SubscriptionState;
  error?: FanwayError;
}

/** What a component shows of a channel; outlives renders, and begins anew with another name. */
class ChannelStore<Data> {
  view: ChannelView<Data> = EMPTY;
  options: UseChannelOptions<Data> = {};
  private _list: OptimisticMessages<Data> | undefined;

  constructor(
    private readonly _client: Fanway<any>,
    private readonly _name: string,
  ) {}

  readonly subscribe = (changed: () => void): (() => void) => {
    const { rewind, token, loadState } = this.options;
    const channel = this._client.channel(this._name, {
      rewind,
      token,
      ...(loadState && { loadState: (request) => this.options.loadState?.(request) }),
    }) as Channel<Data>;
    const list = (this._list = new OptimisticMessages(this._client, channel, this.options.limit));
    const set = (view: Partial<ChannelView<Data>>) => {
      this.view = { ...this.view, ...view };
      changed();
    };
    channel.on("state", ({ state, error }) => set({ state, error }));
    list.onChange(({ messages }) => set({ messages }));
    channel.on("message", (message) => this.options.onMessage?.(message));
    channel.on("gap", (gap) => this.options.onGap?.(gap));
    set({ state: channel.state, messages: list.messages });
    return () => {
      list.close();
      channel.close();
      this._list = undefined;
    };
  };

  readonly publish = (data: Data, options?: PublishOptions): Promise<Published> =>
    this.options.optimistic && this._list ? this._list.publish(data, options) : this._client.channel(this._name).publish(data, options);
}

const EMPTY: ChannelView<any> = { messages: [], state: "idle" };
const noSubscription = () => () => {};

/**
 * Return the newest messages of *name*, its state, and `publish`. Subscribed while the component is mounted; a later
 * subscription of the same component begins with an empty list, and its `rewind`.
 */
export function useChannel<Data = any>(
  name: string,
  options: UseChannelOptions<Data> = {},
): ChannelView<Data> & { publish(data: Data, options?: PublishOptions): Promise<Published> } {
  const client = useFanway();
  const store = useMemo(() => new ChannelStore<Data>(client, name), [client, name]);
  store.options = options;
  const view = useSyncExternalStore(
    options.enabled === false ? noSubscription : store.subscribe,
    () => store.view,
    () => EMPTY as ChannelView<Data>,
  );
  return { ...view, publish: store.publish };
}

/** Return the newest message of *name*, beginning with the last one that the channel keeps. */
export function useLatest<Data = any>(name: string, options: Omit<UseChannelOptions<Data>, "limit" | "rewind"> = {}): Message<Data> | undefined {
  const { messages } = useChannel<Data>(name, { ...options, limit: 1, rewind: 1 });
  return messages[messages.length - 1];
}

const NOBODY: readonly Member[] = [];

/** Return who is in *name*, by connection; empty until it is known. */
export function usePresence(name: string): readonly Member[] {
  const client = useFanway();
  const members = useRef(NOBODY);
  const subscribe = useCallback(
    (changed: () => void) => {
      const presence = new LivePresence(client, name);
      presence.onChange(() => {
        members.current = [...presence.members.values()];
        changed();
      });
      return () => presence.close();
    },
    [client, name],
  );
  useEffect(() => () => void (members.current = NOBODY), [client, name]);
  return useSyncExternalStore(subscribe, () => members.current, () => NOBODY);
}
