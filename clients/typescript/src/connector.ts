// The connector between a client SDK and Lowtide: tokens, and how local changes get to the server.

import type { CommonPowerSyncDatabase, PowerSyncBackendConnector, PowerSyncCredentials } from '@powersync/common';
import { type Batch, beginLineage, MAX_MUTATIONS, nextBatch, Notes, type Spoilt } from './batch.js';
import { isError, LowtideError } from './errors.js';
import { Events } from './events.js';
import { type Fetch, Http, type Method, type Sending, settled } from './http.js';
import { token as random } from './random.js';
import { stillOf, type TokenSource } from './session.js';

const MAX_ATTEMPTS = 24; // in one call: halving 5,000 takes 13
const AUDIT_EVERY = 24 * 3600 * 1000; // milliseconds
const DEADLINE = 60_000; // of one upload, in milliseconds
const FIRST_PAUSE = 2_000; // after a failure, in milliseconds; doubles, with a random part
const LONGEST_PAUSE = 120_000;
const UNREADABLE = [400, 413, 422];
const SMALL = 65_536; // bytes that every proxy lets through: its 413 is then about something else

// A digest of what this device holds, bucket by bucket.
const AUDIT = `
  SELECT b.name, CAST(b.last_op AS TEXT) AS after, count(o.op_id) AS count,
    coalesce(sum(o.op_id % 1000000007), 0) AS ops,
    coalesce(sum(length(o.data)), 0) AS length,
    coalesce(sum(unicode(substr(o.data, 1 + o.op_id % length(o.data), 1))
      + 31 * unicode(substr(o.data, 1 + o.op_id / 7 % length(o.data), 1))), 0) AS sample
  FROM ps_buckets b LEFT JOIN ps_oplog o ON o.bucket = b.id
  WHERE b.name != '$local' GROUP BY b.id LIMIT 1000`;

/** A change that the server refused. Its content is in `lowtide_rejections`, until the app dismisses it. */
export interface Refusal {
  readonly n: number;
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  /** The record; empty for a transaction that was too large to send. */
  readonly model: string;
  readonly id: string;
}

/** A change that met another one which it did not know of; `fields` went to the conflict journal. */
export interface MergedChange {
  readonly n: number;
  readonly model: string;
  readonly id: string;
  readonly fields: readonly string[];
}

/** What a connector tells. A listener that throws keeps nothing back. */
interface Told {
  refused: readonly Refusal[];
  merged: readonly MergedChange[];
  upload: { readonly status: number; readonly code: string };
  outdated: Outdated;
  error: unknown;
}

/** This version of the app is no longer served. */
export interface Outdated {
  /** The oldest version that is. */
  readonly minimum: string;
  /** Where a newer one is; empty if the server does not say. */
  readonly store: string;
}

export interface ConnectorOptions {
  readonly endpoint: string;
  /** A `Session`, or any other source of tokens. */
  readonly tokens: TokenSource | (() => Promise<string | null>);
  readonly fetch?: Fetch | undefined;
  readonly appVersion?: string | undefined;
  readonly onRefused?: (refusals: readonly Refusal[]) => void;
  readonly onMerged?: (changes: readonly MergedChange[]) => void;
  /** Hears of every answer to an upload, and of its absence as status 0. */
  readonly onUpload?: (answer: { readonly status: number; readonly code: string }) => void;
  /** Hears, once in a connection, that this version of the app is too old to download. */
  readonly onOutdated?: (event: Outdated) => void;
  /** Hears of an audit that failed: it is tried again tomorrow. */
  readonly onError?: (error: unknown) => void;
  /** Milliseconds between two audits of what the device holds; a day unless given. */
  readonly auditEvery?: number;
}

interface Answer {
  readonly last: number;
  readonly results: readonly {
    readonly n: number;
    readonly status: 'applied' | 'merged' | 'unchanged' | 'refused';
    readonly code?: string;
    readonly message?: string;
    readonly hint?: string;
    readonly conflicts?: readonly string[];
  }[];
}

export class LowtideConnector implements PowerSyncBackendConnector {
  readonly #http: Http;
  readonly #tokens: TokenSource;
  readonly #auditEvery: number;
  readonly #events = new Events<Told>();
  #given: string | undefined; // the token that the SDK has
  #owner: string | null = null; // whose data the database holds, when it was last looked
  #notes: Notes | null = null;
  #most = MAX_MUTATIONS; // transactions in the next batch
  #spoilt: Spoilt = { first: 0, times: 0 };
  #failures = 0;
  #notBefore = 0;
  #failed: unknown;
  #asked = false; // in this connection: which version is wanted
  #audited = 0;
  #uploading: Promise<void> = Promise.resolve();
  #quiet: (() => void) | null = null;
  #over = new AbortController();

  constructor(options: ConnectorOptions) {
    this.#http = new Http(options);
    this.#auditEvery = options.auditEvery ?? AUDIT_EVERY;
    this.#events.on('refused', (event) => options.onRefused?.(event));
    this.#events.on('merged', (event) => options.onMerged?.(event));
    this.#events.on('upload', (event) => options.onUpload?.(event));
    this.#events.on('outdated', (event) => options.onOutdated?.(event));
    this.#events.on('error', (event) => options.onError?.(event));
    this.#tokens = typeof options.tokens === 'function' ? called(options.tokens) : options.tokens;
  }

  get endpoint(): string {
    return this.#http.endpoint;
  }

  /** What the server is told of this version. */
  get appVersion(): string | undefined {
    return this.#http.appVersion;
  }

  /** Before the first write: notes when each change is made from now on. */
  async prepare(db: CommonPowerSyncDatabase): Promise<void> {
    const notes = new Notes(db);
    await notes.setUp();
    if ((await notes.get('audited')) === null) await notes.set('audited', String(Date.now()));
    this.#audited = Number(await notes.get('audited'));
    this.#notes = notes;
    let before = false;
    this.#quiet?.();
    this.#quiet = db.registerListener({
      statusChanged: ({ connected, downloading, downloadError }) => {
        if (downloadError?.message.includes('app_too_old')) void this.#ask();
        if (connected && !before) this.hurry();
        before = connected;
        if (!connected || downloading || Math.abs(Date.now() - this.#audited) < this.#auditEvery) return;
        this.#audited = Date.now(); // one at a time; one that fails is tried again tomorrow
        void this.audit(db).catch((error: unknown) => this.#events.emit('error', error));
      }
    });
  }

  /** The SDK was told that the app is too old, but not in what words: each of its transports has its own. */
  async #ask(): Promise<void> {
    if (this.#asked) return;
    this.#asked = true;
    try {
      await this.#http.send('GET', '/v1/sync/conflicts'); // any address that asks for the version before the token
    } catch (error) {
      if (!isError(error, 'app_too_old')) {
        this.#asked = false;
        return;
      }
      const { minimum, store } = error.problem;
      this.#events.emit('outdated', { minimum: String(minimum), store: String(store ?? '') });
    }
  }

  /** Give up the upload that is on its way. It is sent again, and counts once, unless the database is emptied. */
  abort(): void {
    this.#over.abort();
    this.#over = new AbortController();
  }

  /** Let go of the database. */
  close(): void {
    this.abort();
    this.#quiet?.();
    this.#quiet = null;
  }

  /**
   * Has the server compare what this device holds: once a day by itself. What differs is downloaded anew and
   * replaced at one checkpoint. Gives the names of the buckets that differed.
   */
  async audit(db: CommonPowerSyncDatabase): Promise<readonly string[]> {
    const body = { client_id: await db.getClientId(), buckets: await db.getAll(AUDIT) };
    const { diverged } = await this.request<{ diverged: string[] }>('POST', '/v1/sync/audit', {
      body,
      deadline: DEADLINE,
      holds: 'diverged'
    });
    this.#audited = Date.now();
    await new Notes(db).set('audited', String(this.#audited));
    return diverged;
  }

  /**
   * The database is the present user's from now on. Says no, and changes nothing, when it holds another user's data:
   * unless that user has become this one, by a merge of accounts.
   */
  async claim(db: CommonPowerSyncDatabase): Promise<boolean> {
    const { user } = this.#tokens.identity ?? {};
    if (user === undefined) return true;
    if (!(await this.#mine(new Notes(db)))) return false;
    if (this.#owner !== user) await this.disown(db, user);
    return true;
  }

  /** The database is this user's, or nobody's, whoever's it was: after it was emptied. */
  async disown(db: CommonPowerSyncDatabase, user: string): Promise<void> {
    this.begin();
    await new Notes(db).set('owner', user);
  }

  /** A new connection begins, or another user: no token of before is used again. */
  begin(): void {
    this.#asked = false;
    this.#given = undefined;
    this.#tokens.forget?.();
  }

  async fetchCredentials(): Promise<PowerSyncCredentials | null> {
    // Whoever asks again for the same token had it refused, or about to expire.
    const token = await this.#tokens.token(this.#given);
    this.#given = token ?? undefined;
    if (token === null) return null;
    if (this.#notes) await this.#check(this.#notes);
    return { endpoint: this.#http.endpoint, token };
  }

  /** Called by the SDK while there is something to upload. Throws to be called again after a pause. */
  async uploadData(db: CommonPowerSyncDatabase): Promise<void> {
    return this.upload(db, this.#over.signal);
  }

  /** The same until `signal` gives up; one at a time. */
  async upload(db: CommonPowerSyncDatabase, signal?: AbortSignal): Promise<void> {
    const mine = this.#uploading.catch(() => {}).then(() => this.#try(db, signal));
    this.#uploading = mine;
    return mine;
  }

  async #try(db: CommonPowerSyncDatabase, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) throw new LowtideError('aborted', 'The upload was given up before its turn.');
    if (Date.now() < this.#notBefore && this.#notBefore - Date.now() <= 2 * LONGEST_PAUSE) {
      throw new LowtideError('waiting', 'The upload waits before it tries again.', {
        retryable: true,
        cause: this.#failed
      });
    }
    try {
      await this.#upload(new Notes(db), signal);
      this.hurry();
    } catch (error) {
      // Who is not signed in asked nobody, and is not to wait once they are.
      if (isError(error, 'not_signed_in', 'other_user', 'aborted')) throw error;
      this.#failed = error;
      const grown = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(this.#failures++, 10));
      const asked = isError(error) ? Math.min(error.retryAfter, LONGEST_PAUSE) : 0;
      this.#notBefore = Date.now() + asked + grown * (0.5 + Math.random() / 2);
      throw error;
    }
  }

  /** Try again at the next occasion: the network is back, or the user asks. */
  hurry(): void {
    this.#failures = 0;
    this.#notBefore = 0;
  }

  /**
   * One request as the user, repeated once with a new token if the first was refused. Throws `other_user`, and is not
   * sent, when somebody else is signed in by then.
   */
  async request<T>(method: Method, path: string, sending: Omit<Sending, 'token'> = {}): Promise<T> {
    return this.#request(method, path, sending, this.#tokens.identity?.user);
  }

  async #request<T>(method: Method, path: string, sending: Sending, user: string | null | undefined): Promise<T> {
    const token = await settled(this.#token(user), sending.signal);
    const call = { key: random(), ...sending }; // one call, however many requests: the first may have run unheard
    try {
      return await this.#http.send<T>(method, path, { ...call, token });
    } catch (error) {
      if (!isError(error) || error.status !== 401) throw error;
      return this.#http.send<T>(method, path, { ...call, token: await settled(this.#token(user, token), sending.signal) });
    }
  }

  async #token(user: string | null | undefined, refused?: string): Promise<string> {
    const token = await this.#tokens.token(refused);
    if (!token) throw new LowtideError('not_signed_in', 'Nobody is signed in.');
    stillOf(user, this.#tokens); // the token may have been long in coming
    return token;
  }

  async #upload(notes: Notes, signal: AbortSignal | undefined): Promise<void> {
    let gap = false; // numbers before this batch were thrown away on this device, by signing out for example
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      // Looked at before and after: what is read in between is this user's, whatever other tabs do.
      const signedIn = this.#tokens.identity?.user;
      await this.#check(notes);
      const user = signedIn ?? this.#owner;
      const batch = await nextBatch(notes, this.#most, this.#spoilt);
      if (!batch) return;
      try {
        await this.#check(notes);
        const body = { ...batch.body, ...(gap && { gap }) };
        const sending = { body, deadline: DEADLINE, signal, holds: 'results' };
        const answer = await this.#request<Answer>('POST', '/v1/sync/batches', sending, user);
        if (!(answer.last >= batch.last && Array.isArray(answer.results))) {
          throw new LowtideError('not_lowtide', 'The upload was answered with less.', { status: 200, retryable: true });
        }
        this.#events.emit('upload', { status: 200, code: '' });
        await batch.complete(); // only now do the changes leave the queue
        this.#most = Math.min(MAX_MUTATIONS, this.#most * 2);
        this.#tell(batch, answer);
        return;
      } catch (error) {
        if (!isError(error)) throw error;
        this.#events.emit('upload', { status: error.status, code: error.code });
        // A proxy's own bound is one, too, where it can be met.
        const ours = error.code !== 'not_lowtide' || (error.status === 413 && batch.bytes > SMALL);
        const unreadable = ours && UNREADABLE.includes(error.status);
        const times = this.#spoilt.first === batch.first ? this.#spoilt.times : 0;
        if (error.code === 'batch_gap' && !gap) gap = true;
        else if (error.code === 'batch_repeated') await beginLineage(notes, Number(error.problem.known));
        else if (unreadable && batch.count > 1) this.#most = batch.count >> 1; // find the one that is beyond the server
        else if (unreadable && times < 2) this.#spoilt = { first: batch.first, times: times + 1 };
        else throw error;
      }
    }
    throw new LowtideError('not_lowtide', 'The upload does not get through.', { retryable: true });
  }

  #tell(batch: Batch, answer: Answer): void {
    const of = (n: number) => ({ n, model: batch.entries.get(n)?.table ?? '', id: batch.entries.get(n)?.id ?? '' });
    const refused: Refusal[] = [];
    const merged: MergedChange[] = [];
    for (const { n, status, code = '', message = '', hint = '', conflicts = [] } of answer.results) {
      if (status === 'refused') refused.push({ ...of(n), code, message, hint });
      // (A command that is dismissed as it runs is nobody's conflict.)
      if (status === 'merged' && !of(n).model.startsWith('lowtide_')) merged.push({ ...of(n), fields: conflicts });
    }
    if (refused.length > 0) this.#events.emit('refused', refused);
    if (merged.length > 0) this.#events.emit('merged', merged);
  }

  /** Is the database the present user's, or nobody's? Another tab may have emptied it: it is looked at each time. */
  async #mine(notes: Notes): Promise<boolean> {
    this.#owner = (await notes.get('owner')) || null;
    const identity = this.#tokens.identity;
    if (!identity || this.#owner === null) return true;
    return this.#owner === identity.user || identity.former.includes(this.#owner);
  }

  /** What one user wrote is never sent as another's. */
  async #check(notes: Notes): Promise<void> {
    if (await this.#mine(notes)) return;
    throw new LowtideError('other_user', 'The database holds the data of another user.', {
      hint: 'Merge the accounts, sign in as that user, or throw away what was not sent.'
    });
  }
}

/** The app's own function as a source of tokens. */
function called(ask: () => Promise<string | null>): TokenSource {
  let last: string | null = null;
  let times = 0; // that it was forgotten: an answer to a question of before is not kept
  return {
    async token(refused) {
      if (refused === undefined && last) return last;
      const before = times;
      const token = await ask();
      if (times === before) last = token;
      return token;
    },
    forget() {
      times++;
      last = null;
    }
  };
}
