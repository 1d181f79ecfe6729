/** Pages of the messages that a channel keeps. */

import { type Message, messageOf } from "./subscription.js";
import type { HistoryReply } from "./wire.js";

export interface HistoryPage {
  limit?: number;
  since?: string;
  reverse?: boolean;
}

interface Requests {
  request<Reply>(command: { type: string } & Record<string, unknown>): Promise<Reply>;
}

/** Return one page; the gateway may send fewer than *limit*. */
export async function history<Data>(connection: Requests, channel: string, page: HistoryPage): Promise<Message<Data>[]> {
  const { messages } = await connection.request<HistoryReply>({ type: "history", channel, ...page });
  return messages.map((push) => messageOf<Data>(push));
}
