// One request to the server, with a deadline; repeated where that is harmless.

import { isTransient, LowtideError, type Problem } from './errors.js';
import { token as random } from './random.js';

export type Fetch = (address: string, init: RequestInit) => Promise<Response>;
export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface HttpOptions {
  /** Where the server is, such as `https://api.example.com`. */
  readonly endpoint: string;
  /** In place of the platform's `fetch`. */
  readonly fetch?: Fetch | undefined;
  /** What the server is told of this version, such as `ios/2.0.3`: it may refuse those that are too old. */
  readonly appVersion?: string | undefined;
}

export interface Sending {
  readonly body?: unknown;
  readonly token?: string | null | undefined;
  /** Milliseconds for one attempt; 30,000 unless given. */
  readonly deadline?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How often a request without an answer is sent, in all; a POST then carries an Idempotency-Key. */
  readonly attempts?: number | undefined;
  /** That key, where the same call is sent by several requests: it is done once. */
  readonly key?: string | undefined;
  /**
   * The member by which the answer is told: a success without it is of something in between (`not_lowtide`). An empty
   * text: the answer is to be empty. Where it is not given, any JSON object will do, and nothing, too.
   */
  readonly holds?: string | undefined;
}

const WORTH = 1_024; // characters from which on a body is compressed
const PAUSE = 400; // milliseconds before the second attempt; the third waits four times as long

export class Http {
  readonly endpoint: string;
  readonly appVersion: string | undefined;
  readonly #fetch: Fetch;
  #plain = typeof CompressionStream !== 'function'; // or something on the way does not let compressed bodies through
  #failed = false; // had the last compressed one no answer of Lowtide's? The next goes as it is
  #instead = 0; // how often in a row one that went as it is, after such a failure, had an answer

  constructor({ endpoint, fetch, appVersion }: HttpOptions) {
    this.endpoint = endpoint.replace(/\/+$/, '');
    this.#fetch = fetch ?? ((address, init) => globalThis.fetch(address, init));
    this.appVersion = appVersion;
  }

  /** The answer's body; undefined for 204. Throws a `LowtideError` for anything but success. */
  async send<T>(method: Method, path: string, sending: Sending = {}): Promise<T> {
    const attempts = sending.attempts ?? 1;
    const key = attempts > 1 && method === 'POST' ? (sending.key ?? random()) : undefined;
    for (let attempt = 1; ; attempt++) {
      try {
        return (await this.#once(method, path, sending, key)) as T;
      } catch (error) {
        const again = error instanceof LowtideError && ['network', 'timeout', 'key_in_flight'].includes(error.code);
        if (!again || attempt >= attempts) throw error;
        await pause(PAUSE * 4 ** (attempt - 1) * (0.5 + Math.random()), sending.signal);
      }
    }
  }

  async #once(method: Method, path: string, sending: Sending, key: string | undefined): Promise<unknown> {
    const text = sending.body === undefined ? undefined : JSON.stringify(sending.body);
    if (this.#plain || text === undefined || text.length < WORTH) return this.#exchange(method, path, sending, key, text);
    const packed = !this.#failed;
    this.#failed = false;
    try {
      const answer = await this.#exchange(method, path, sending, key, text, packed);
      this.#heard(packed);
      return answer;
    } catch (error) {
      if (!(error instanceof LowtideError)) throw error;
      // A web page's request may also have been held back for its header, without a word. (413 is about the size.)
      if (['network', 'timeout', 'not_lowtide'].includes(error.code)) this.#failed = packed && error.status !== 413;
      else if (error.code !== 'aborted') this.#heard(packed);
      // What cannot be read may be so for its coding only: the request has the last word as it is.
      if (!packed || ![400, 415].includes(error.status)) throw error;
      const answer = await this.#exchange(method, path, sending, key, text);
      this.#plain = true;
      return answer;
    }
  }

  /** Lowtide has answered. Where it did so twice only once a body went uncompressed, they all do from now on. */
  #heard(packed: boolean): void {
    this.#instead = packed ? 0 : this.#instead + 1;
    this.#plain ||= this.#instead > 1;
  }

  async #exchange(
    method: Method,
    path: string,
    sending: Sending,
    key: string | undefined,
    text: string | undefined,
    packed = false
  ): Promise<unknown> {
    const { token, deadline = 30_000, signal } = sending;
    const headers: Record<string, string> = {};
    if (text !== undefined) headers['content-type'] = 'application/json';
    if (packed) headers['content-encoding'] = 'gzip';
    if (token) headers.authorization = `Bearer ${token}`;
    if (key) headers['idempotency-key'] = key;
    if (this.appVersion) headers['x-app-version'] = this.appVersion;
    return until([signal], async (end, stop) => {
      const timer = setTimeout(stop, deadline);
      try {
        if (end.aborted) throw new Error('aborted');
        const exchange = async () => {
          const response = await this.#fetch(this.endpoint + path, {
            method,
            headers,
            // A redirect is never ours, and would take what is sent to somewhere else.
            redirect: 'error',
            signal: end,
            ...(text !== undefined && { body: packed ? await gzip(text) : text })
          });
          return read(response, await response.text(), sending.holds);
        };
        return await settled(exchange(), end); // also where the platform's fetch heeds no signal
      } catch (error) {
        if (error instanceof LowtideError && error.code !== 'aborted') throw error;
        if (signal?.aborted) throw new LowtideError('aborted', 'The request was given up.', { cause: error });
        const code = end.aborted ? 'timeout' : 'network';
        const message = end.aborted ? 'The server did not answer in time.' : 'The server cannot be reached.';
        throw new LowtideError(code, message, { retryable: true, cause: error });
      } finally {
        clearTimeout(timer);
      }
    });
  }
}

function gzip(text: string): Promise<ArrayBuffer> {
  return new Response(new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))).arrayBuffer();
}

function read(response: Response, text: string, holds: string | undefined): unknown {
  const { ok, status } = response;
  if (status === 204 && !holds) return undefined;
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = undefined;
  }
  if (ok && typeof answer === 'object' && answer !== null && (holds === undefined || holds in answer)) return answer;
  const after = Number(response.headers.get('retry-after'));
  const asked = after > 0 ? { retry_after: after } : {};
  const known = !ok && typeof answer === 'object' && answer !== null && typeof (answer as Problem).code === 'string';
  if (!known) {
    // What stands between may answer anything: it decides nothing, and never that somebody is signed out.
    throw new LowtideError('not_lowtide', `Something else than Lowtide answered ${status}.`, {
      status,
      retryable: true,
      hint: 'Is there a page to sign in to this network, or a proxy in between?',
      problem: asked
    });
  }
  const problem: Problem = { ...asked, ...(answer as Problem) };
  throw new LowtideError(problem.code ?? '', problem.detail ?? `The server answered ${status}.`, {
    status,
    hint: problem.hint ?? '',
    retryable: isTransient(status),
    problem
  });
}

const LONGEST = 2 ** 31 - 1; // milliseconds: timers take a longer wait for none

/** Wait; throws `aborted` when `signal` says so. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      if (signal?.aborted) reject(new LowtideError('aborted', 'The wait was given up.'));
      else resolve();
    };
    const timer = setTimeout(end, Math.min(milliseconds, LONGEST));
    if (signal?.aborted) end();
    else signal?.addEventListener('abort', end, { once: true });
  });
}

/**
 * What `work` comes to, or `late` once `deadline` milliseconds are over or `signal` says so. Work that hangs is told by
 * the signal that it is given, and nobody waits for it any more.
 */
export async function inTime<T>(
  deadline: number,
  late: T,
  signal: AbortSignal | undefined,
  work: (end: AbortSignal) => Promise<T>
): Promise<T> {
  return until([signal], async (end, stop) => {
    const timer = setTimeout(stop, deadline);
    try {
      return await settled(work(end), end);
    } catch (error) {
      if (end.aborted) return late;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  });
}

/** Run `work` with a signal that says so when one of `signals` does, when `stop` is called, and when it is over. */
export async function until<T>(
  signals: readonly (AbortSignal | undefined)[],
  work: (end: AbortSignal, stop: () => void) => Promise<T>
): Promise<T> {
  const end = new AbortController();
  const stop = () => end.abort();
  for (const one of signals) {
    one?.addEventListener('abort', stop);
    if (one?.aborted) stop();
  }
  try {
    return await work(end.signal, stop);
  } finally {
    stop();
    for (const one of signals) one?.removeEventListener('abort', stop);
  }
}

/** The same promise, or `aborted` as soon as `signal` says so. */
export async function settled<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  let stop = () => {};
  const given = new Promise<never>((_, reject) => {
    stop = () => reject(new LowtideError('aborted', 'The wait was given up.'));
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work, given]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
