/** Calls of the example's own backend. */

import { UnauthorizedError } from "@fanway/client";

/** Who is logged in, and where the gateway is. */
export interface Me {
  id: string;
  name: string;
  /** The personal channel. */
  channel: string;
  gateway: string;
}

/** The backend's answer was an error. */
export class HttpError extends Error {
  constructor(
    path: string,
    readonly status: number,
  ) {
    super(`${path}: HTTP ${status}`);
  }

  /** Whether the same request may succeed later. */
  get temporary(): boolean {
    return this.status >= 500 || this.status === 429;
  }
}

/** The session is kept per tab: each tab may be another user, which is what an example wants. */
const SESSION = "session";

async function request(path: string, init?: RequestInit): Promise<Response> {
  const session = sessionStorage.getItem(SESSION) ?? "";
  const headers = { authorization: `Bearer ${session}`, "content-type": "application/json" };
  const answer = await fetch(path, { ...init, headers });
  if (!answer.ok) throw new HttpError(path, answer.status);
  return answer;
}

/** Get *path* and return the JSON that the backend answers. */
export async function get<Answer>(path: string): Promise<Answer> {
  return (await (await request(path)).json()) as Answer;
}

/** Post *body*, and return the JSON that the backend answers, if it answers any. */
export async function post<Answer = void>(path: string, body: unknown = {}): Promise<Answer> {
  const answer = await request(path, { method: "POST", body: JSON.stringify(body) });
  return (answer.status === 204 ? undefined : await answer.json()) as Answer;
}

/** Log in as *name*; a backend of your own would ask for a password. */
export async function logIn(name: string): Promise<Me> {
  const { session } = await post<{ session: string }>("/login", { name });
  sessionStorage.setItem(SESSION, session);
  return get<Me>("/me");
}

/** End the session. */
export async function logOut(): Promise<void> {
  await post("/logout").catch(() => undefined); // it may have ended already
  sessionStorage.removeItem(SESSION);
}

/** Return who is logged in; null if nobody is, or if the session has ended. */
export async function whoAmI(): Promise<Me | null> {
  if (sessionStorage.getItem(SESSION) === null) return null;
  try {
    return await get<Me>("/me");
  } catch (error) {
    if (error instanceof HttpError && error.status === 401) return null;
    throw error;
  }
}

/** Fetch a token for the gateway. A session that has ended stops the client; any other failure is tried again. */
export async function getToken(): Promise<string> {
  try {
    return await (await request("/fanway/token")).text();
  } catch (error) {
    if (error instanceof HttpError && error.status === 401) throw new UnauthorizedError("the session has ended");
    throw error;
  }
}
