/** What the page asks of the gateway over HTTP: as a backend does, and what only dev mode answers. */

/** The push key of dev mode. */
export const HEADERS = { Authorization: "Bearer dev", "Content-Type": "application/json" };

export const api = (path: string): string => new URL(path, location.origin + location.pathname).href;

export interface Publish {
  channel: string;
  data: unknown;
}

/** Publish with one request; return for each its message id, or undefined where it was refused. */
export async function publishBatch(publishes: readonly Publish[]): Promise<(string | undefined)[]> {
  const { results } = await post("v1/batch", { commands: publishes.map((publish) => ({ publish })) });
  return results.map(({ message }: { message?: string }) => message);
}

/** Return the body of the answer; rejects with the message of an error. */
export async function post(path: string, body: unknown): Promise<any> {
  const response = await fetch(api(path), { method: "POST", headers: HEADERS, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status}: ${answer.error?.message}`);
  return answer;
}

export async function channels(): Promise<{ channel: string; subscribers: number }[]> {
  const response = await fetch(api("v1/channels?limit=50"), { headers: HEADERS }).catch(() => undefined);
  return response?.ok ? (await response.json()).channels : [];
}

/** Return the address of the public listener, for the client. */
export async function publicUrl(): Promise<string> {
  const { port } = await (await fetch(api("demo/where"))).json();
  return `${location.protocol}//${location.hostname}:${port}`;
}

/** Return a token of *user*; undefined where the gateway has a secret of its own, for which dev mode signs nothing. */
export async function fetchToken(user: string): Promise<string | undefined> {
  const response = await fetch(api(`demo/token?user=${encodeURIComponent(user)}`), { method: "POST" });
  if (!response.ok) throw new Error(`no token: ${response.status}`);
  return (await response.json()).token ?? undefined;
}
