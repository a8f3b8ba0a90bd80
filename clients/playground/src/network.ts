// A phone's network: what `fetch` means in the phone's realm. Everything that the SDK and the connector send
// goes through here, and neither knows. A fault is what a real network does: a request waits, never arrives,
// arrives while its answer does not, or an answer breaks off after some bytes.

import { real } from './clock';

export interface Weather {
  airplane: boolean;
  train: boolean;
  basement: boolean;
}

export type Fate = 'answered' | 'no network' | 'request lost' | 'answer lost' | 'cut off' | 'stopped';

export interface Sent {
  method: string;
  path: string;
  /** What became of it; null as long as it is under way. */
  fate: Fate | null;
  status: number;
  bytes: number;
  /** True time, in milliseconds. */
  at: number;
}

const TRAIN = { delay: [500, 1300], bytesPerSecond: 3_000, tunnel: [9_000, 20_000] } as const;
const BASEMENT = { requestLost: 0.25, answerLost: 0.35, patience: [500, 1500], cutAfter: [400, 4_000] } as const;

const between = ([low, high]: readonly [number, number]) => low + Math.random() * (high - low);
const failed = () => new TypeError('Failed to fetch');

export class Network {
  private readonly under = new Set<AbortController>();
  /** The answer to the next upload gets lost, whatever the weather. */
  loseAnswer = false;
  /** Uploads get lost on the way, whatever the weather, for as long as this is so. */
  loseUploads = false;
  private weather: Weather = { airplane: false, train: false, basement: false };

  constructor(
    private readonly fetch: typeof globalThis.fetch,
    private readonly hear: (sent: Sent) => void
  ) {}

  /** From now on. What gets worse ends at once what is under way. */
  set(weather: Weather): void {
    const worse = (['airplane', 'train', 'basement'] as const).some((one) => weather[one] && !this.weather[one]);
    this.weather = { airplane: weather.airplane, train: weather.train, basement: weather.basement };
    if (worse) for (const one of this.under) one.abort(failed());
  }

  /** As `fetch`, under the present weather. */
  readonly send = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const given = input instanceof Request ? new Request(input, init) : null;
    const address = new URL(given?.url ?? String(input), location.href);
    const sent: Sent = {
      method: given?.method ?? init.method ?? 'GET',
      path: address.pathname,
      fate: null,
      status: 0,
      bytes: 0,
      at: real()
    };
    const cut = new AbortController();
    const asked = given?.signal ?? init.signal;
    const stop = () => cut.abort(asked?.reason);
    if (asked?.aborted) stop();
    asked?.addEventListener('abort', stop, { once: true });
    this.under.add(cut);
    const end = (fate: Fate) => {
      if (sent.fate) return;
      sent.fate = asked?.aborted ? 'stopped' : fate;
      this.under.delete(cut);
      asked?.removeEventListener('abort', stop);
      this.hear({ ...sent });
    };
    try {
      this.hear({ ...sent });
      const { airplane, train, basement } = this.weather;
      if (airplane) throw this.because(end, 'no network');
      if (train) await pause(between(TRAIN.delay), cut.signal);
      const held = this.loseUploads && address.pathname === '/v1/sync/batches';
      if (held || (basement && Math.random() < BASEMENT.requestLost)) {
        await pause(between(BASEMENT.patience), cut.signal);
        throw this.because(end, 'request lost');
      }
      const answer = await this.fetch(given ?? address, { ...init, signal: cut.signal });
      sent.status = answer.status;
      const streams = address.pathname === '/sync/stream';
      const meant = this.loseAnswer && address.pathname === '/v1/sync/batches';
      if (meant || (basement && !streams && Math.random() < BASEMENT.answerLost)) {
        if (meant) this.loseAnswer = false;
        await answer.body?.cancel();
        await pause(between(BASEMENT.patience), cut.signal);
        throw this.because(end, 'answer lost');
      }
      if (train) await pause(between(TRAIN.delay), cut.signal);
      this.hear({ ...sent });
      const empty = answer.status === 204; // which a Response takes only without a body, be it an empty one
      const body = empty || !answer.body ? null : this.worsened(answer.body, cut, sent, end, train, basement);
      if (!body) end('answered');
      return new Response(body, { status: answer.status, statusText: answer.statusText, headers: answer.headers });
    } catch (error) {
      end('cut off');
      throw error;
    }
  };

  private because(end: (fate: Fate) => void, fate: Fate): TypeError {
    end(fate);
    return failed();
  }

  private worsened(
    body: ReadableStream<Uint8Array>,
    cut: AbortController,
    sent: Sent,
    end: (fate: Fate) => void,
    train: boolean,
    basement: boolean
  ): ReadableStream<Uint8Array> {
    const reader = body.getReader();
    const streams = sent.path === '/sync/stream';
    let left = basement && streams ? between(BASEMENT.cutAfter) : Infinity;
    const tunnel = train && streams ? setTimeout(() => cut.abort(failed()), between(TRAIN.tunnel)) : undefined;
    let broken: (error: unknown) => void = () => {};
    const breaks = new Promise<never>((_, reject) => (broken = reject));
    breaks.catch(() => {});
    cut.signal.addEventListener('abort', () => broken(cut.signal.reason ?? failed()), { once: true });
    const close = (fate: Fate) => {
      clearTimeout(tunnel);
      end(fate);
    };
    return new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        try {
          const { done, value } = await Promise.race([reader.read(), breaks]);
          if (done) {
            close('answered');
            controller.close();
            return;
          }
          sent.bytes += value.length;
          this.hear({ ...sent });
          if (train) await pause((1000 * value.length) / TRAIN.bytesPerSecond, cut.signal);
          if (value.length >= left) {
            controller.enqueue(value.slice(0, left));
            cut.abort(failed());
            throw failed();
          }
          left -= value.length;
          controller.enqueue(value);
        } catch (error) {
          close('cut off');
          await reader.cancel().catch(() => {});
          controller.error(error);
        }
      },
      cancel: async (reason) => {
        close('stopped');
        await reader.cancel(reason);
      }
    });
  }
}

/** Wait, but not beyond the end of the connection. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason ?? failed());
    };
    if (signal.aborted) return stop();
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, milliseconds);
    signal.addEventListener('abort', stop, { once: true });
  });
}
