// What the page asks of the server for itself: the app's facts, tokens, and records over REST. None of it goes
// through a phone's network.

import type { Conflict } from '@lowtide/client';
import { real } from './clock';

export interface Facts {
  name: string;
  epoch: string;
  tables: {
    name: string;
    columns: { name: string; type: 'TEXT' | 'INTEGER' | 'REAL' }[];
  }[];
  merges: Record<string, Record<string, string>>;
}

export interface Shown {
  id: string;
  data: Record<string, unknown>;
  updated: number;
}

export type Lost = Conflict;

/** What to call a user: accounts by their address, guests so, everybody else by their id. */
export function called(view: View | null, user: string): string {
  const email = view?.people[user];
  return email === undefined ? user : email.split('@')[0] || 'guest';
}

/** Who wrote with this device, as far as the server knows. */
export function writer(view: View, device: string): string {
  const user = view.devices[device];
  return user ? called(view, user) : device.startsWith('restore:') ? 'who restored' : 'the server';
}

export interface View {
  head: number;
  epoch: string;
  records: Record<string, Shown[]>;
  rejections: Shown[];
  conflicts: Lost[];
  /** Whose each device is, by its client_id. */
  devices: Record<string, string>;
  /** The address of each account, empty for a guest. */
  people: Record<string, string>;
}

/** An id that sorts behind those made before. */
export function newId(): string {
  made = Math.max(real(), made + 1);
  return `${made.toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
}

let made = 0;

export async function readFacts(): Promise<Facts> {
  return checked(await fetch('/playground/app.json'));
}

/** Get a token, by `send`: a phone's way through its network, or `fetch`. */
export async function askToken(send: typeof fetch, user: string, server = false): Promise<string> {
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ user, server });
  const { token } = await checked<{ token: string }>(
    await send('/playground/token', { method: 'POST', headers, body })
  );
  return token;
}

let serverToken: Promise<string> | null = null;

/** Ask as the app's own server, which no rule binds. */
export async function asServer<T>(method: string, path: string, body?: unknown): Promise<T> {
  serverToken ??= askToken(fetch, 'playground', true);
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${await serverToken}` };
  const answer = await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body) });
  if (answer.status === 401) serverToken = null;
  return checked(answer);
}

async function checked<T>(answer: Response): Promise<T> {
  if (answer.status === 204) return undefined as T;
  const content = await answer.json();
  if (!answer.ok) throw new ServerError(answer.status, content.code ?? '', content.detail ?? answer.statusText);
  return content;
}

export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string
  ) {
    super(message);
  }
}

/** Follow the server's view until the page is closed; `hear` gets null whenever the server is away. */
export async function followServer(hear: (view: View | null) => void): Promise<never> {
  for (;;) {
    try {
      const answer = await fetch('/playground/server');
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split('\n');
        rest = lines.pop()!;
        const last = lines.filter(Boolean).pop();
        if (last) hear(JSON.parse(last));
      }
    } catch {
      // the server is starting again, or gone
    }
    hear(null);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
