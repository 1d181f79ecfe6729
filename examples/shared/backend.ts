/** Calls of the example's own backend. */

import { UnauthorizedError } from "@fanway/client";

/** Who is logged in: each tab may be another user, which is what an example wants. */
const session = (): string => sessionStorage.getItem("session") ?? "";

/** Call the backend, and return the JSON that it answers. */
export async function call<Answer>(path: string, body?: unknown): Promise<Answer> {
  const answer = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: { authorization: `Bearer ${session()}`, "content-type": "application/json" },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return (await answer.json()) as Answer;
}

/** Log in as *name*; the backend would ask for a password. */
export async function logIn(name: string): Promise<void> {
  const { session } = await call<{ session: string }>("/login", { name });
  sessionStorage.setItem("session", session);
  sessionStorage.setItem("name", name);
}

/** The name of who is logged in. */
export const me = (): string | null => sessionStorage.getItem("name");

/** Fetch a token for the gateway. A session that has ended stops the client; any other failure is tried again. */
export async function getToken(): Promise<string> {
  const answer = await fetch("/fanway/token", { headers: { authorization: `Bearer ${session()}` } });
  if (answer.status === 401) throw new UnauthorizedError("log in again");
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.text();
}
