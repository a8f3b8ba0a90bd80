// Who is signed in on this device: kept before it counts, and over only when the server says so.

import { type Account, type DeviceFacts, type SignedIn } from './answers.js';
import { OwnAccount } from './account.js';
import { isError, LowtideError } from './errors.js';
import { Events } from './events.js';
import { Http, type Fetch, inTime, type Method, type Sending } from './http.js';
import { locked } from './lock.js';
import { type PasskeyCeremony } from './passkeys.js';
import { base64url, sha256, token as random } from './random.js';
import { SignIn } from './sign-in.js';
import { type Store } from './storage.js';

export interface SessionOptions {
  /** Where the server is, such as `https://api.example.com`. */
  readonly endpoint: string;
  /** Where the session is kept. */
  readonly store: Store;
  /** Its name there; for apps with several sessions side by side. */
  readonly name?: string;
  /** What the user sees of this device in the list of their devices. */
  readonly device?: DeviceFacts;
  /** The space in which the user acts; `main` unless given. */
  readonly space?: string;
  readonly fetch?: Fetch;
  /** How passkeys are made and used; the browser's unless given. */
  readonly passkeys?: PasskeyCeremony;
}

/** Why a session came to its end. */
export interface Ended {
  readonly code: 'signed_out' | 'session_revoked' | 'invalid_grant' | (string & {});
  readonly reason: string;
  /** What this device holds of the user is to be deleted. */
  readonly wipe: boolean;
  readonly user: string;
}

export type SessionState =
  | { readonly status: 'signed_out'; readonly ended: Ended | null }
  /** Signed in. `authenticated_offline`: the server has not been heard since the start, or does not answer. */
  | { readonly status: 'authenticated' | 'authenticated_offline'; readonly user: Account; readonly guest: string | null };

/** Who gives tokens to uploads and downloads. */
export interface TokenSource {
  /**
   * An access token, another one than `refused`; null when nobody is signed in. Throws when the network fails: that
   * signs nobody out.
   */
  token(refused?: string): Promise<string | null>;
  /** Somebody else may be signed in from now on: a token that was kept to be given again is dropped. */
  forget?(): void;
  /** Whom tokens are of, with the ids that they had before accounts were merged. */
  readonly identity?: { readonly user: string; readonly former: readonly string[] } | null;
}

/**
 * What one user began goes on as nobody else: throws `other_user` once tokens are another's, after no merge. What
 * nobody began (`''`) goes on as nobody; null and undefined are not known, and pass.
 */
export function stillOf(user: string | null | undefined, tokens: TokenSource): void {
  const { identity } = tokens;
  if (user == null || !identity || identity.user === user || identity.former.includes(user)) return;
  throw new LowtideError('other_user', 'Somebody else is signed in now.', {
    hint: 'This was begun by the user of before, and was not sent as another.'
  });
}

interface Kept {
  readonly access_token: string;
  /** When it is to be renewed, on this device's clock. */
  readonly renew_at: number;
  readonly refresh_token: string;
  /** The one that the sign-in answered. */
  readonly begun: string;
  /** With a token it makes the rotation id of its refresh: every repeat is the same request, in every tab. */
  readonly secret: string;
  readonly session_id: string;
  readonly user: Account;
  readonly former: readonly string[];
  readonly space: string;
  /** An anonymous account that may be merged into this one. */
  readonly guest: { readonly token: string; readonly user: string } | null;
}
type Entry = { readonly session: Kept; readonly ended?: undefined } | { readonly session: null; readonly ended: Ended };

const FAREWELL = 5_000; // milliseconds for telling the server of a sign-out
const EARLY = 30; // seconds before its end at which a token is renewed; a quarter of a short one's time
const OVER = ['session_revoked', 'invalid_grant'];

export class Session implements TokenSource {
  /** The ways to sign in. */
  readonly signIn: SignIn;
  /** The user's own account: devices, ways in, password, passkeys. */
  readonly account: OwnAccount;
  readonly #http: Http;
  readonly #store: Store;
  readonly #name: string;
  readonly #device: DeviceFacts;
  readonly #space: string;
  readonly #events = new Events<{ change: SessionState }>();
  #channel: BroadcastChannel | null;
  #kept: Kept | null = null;
  #ended: Ended | null = null;
  #heard = false;
  #failed: Error | null = null; // of the last refresh that failed
  #restored: Promise<unknown> | null = null;
  #over = new AbortController();
  #leaving = new AbortController(); // until somebody signs out

  constructor({ endpoint, store, name = 'lowtide.session', device = {}, space = 'main', ...rest }: SessionOptions) {
    const version = device.platform && device.app_version ? `${device.platform}/${device.app_version}` : undefined;
    this.#http = new Http({ endpoint, fetch: rest.fetch, appVersion: version });
    this.#store = store;
    this.#name = name;
    this.#device = device;
    this.#space = space;
    this.signIn = new SignIn(this, rest.passkeys);
    this.account = new OwnAccount(this, rest.passkeys);
    this.#channel = typeof BroadcastChannel === 'function' ? new BroadcastChannel(`${name}@${endpoint}`) : null;
    if (this.#channel) {
      // A hint: what cannot be read now is read, and told, at the next request.
      this.#channel.onmessage = () => void this.#locked(() => this.#load()).catch(() => {});
      (this.#channel as { unref?: () => void }).unref?.(); // Node would wait for it
    }
  }

  get endpoint(): string {
    return this.#http.endpoint;
  }

  /** What the server is told of this version; undefined where the device's facts do not say. */
  get appVersion(): string | undefined {
    return this.#http.appVersion;
  }

  get state(): SessionState {
    if (!this.#kept) return { status: 'signed_out', ended: this.#ended };
    const { user, guest } = this.#kept;
    const status = this.#heard ? 'authenticated' : 'authenticated_offline';
    return { status, user, guest: guest?.user ?? null };
  }

  /** The user who is signed in; null when nobody is. */
  get user(): Account | null {
    return this.#kept?.user ?? null;
  }

  get identity(): { user: string; former: readonly string[] } | null {
    return this.#kept && { user: this.#kept.user.id, former: this.#kept.former };
  }

  /** Hear of every change of the state, also those made in another tab. */
  onChange(listener: (state: SessionState) => void): () => void {
    return this.#events.on('change', listener);
  }

  /** Go on with what is kept, without the network. Throws `storage` when it cannot be read: try again then. */
  async restore(): Promise<SessionState> {
    this.#restored ??= this.#load(); // without the lock: another tab may hold it for as long as a network hangs
    try {
      await this.#restored;
    } catch (error) {
      this.#restored = null;
      throw error;
    }
    return this.state;
  }

  /** An access token that is good for a while; see `TokenSource`. */
  async token(refused?: string): Promise<string | null> {
    await this.restore();
    const good = (kept: Kept) => kept.access_token !== refused && Date.now() < kept.renew_at;
    if (!this.#kept) return null;
    if (good(this.#kept)) return this.#kept.access_token;
    const before = this.#failed;
    return this.#locked(async () => {
      const kept = await this.#load(); // another tab may have been here
      if (!kept || good(kept)) return kept?.access_token ?? null;
      // Who waited for a try that failed has its answer: not each waits for a hanging network in turn.
      if (this.#failed !== before && this.#failed) throw this.#failed;
      return (await this.#refresh(kept))?.access_token ?? null;
    });
  }

  /** Fetch new tokens now, with what has changed of the user; act in another space from now on, if one is given. */
  async refresh(space?: string): Promise<SessionState> {
    await this.restore();
    await this.#locked(async () => {
      const kept = await this.#load();
      if (kept) await this.#refresh(space === undefined ? kept : { ...kept, space });
    });
    return this.state;
  }

  /** One request as the user. A token that is refused is renewed, and the request sent again. */
  async request<T = unknown>(method: Method, path: string, body?: unknown, sending: Sending = {}): Promise<T> {
    return this.authorised(true, (token, key) => this.send<T>(method, path, { key, ...sending, body, token }));
  }

  /**
   * Sign out here. The server hears of it if it can be reached. What the device holds is `Lowtide.signOut`'s: with
   * `wipe` it is to be deleted, now or, after a crash, when it is opened again. Throws `other_user`, and ends nothing,
   * when somebody else has signed in by now, in another tab for example.
   */
  async signOut({ wipe = false, user }: { wipe?: boolean; /** @internal */ user?: string } = {}): Promise<void> {
    await this.restore();
    const meant = user ?? this.user?.id ?? ''; // whom the app shows here, whatever other tabs have done
    stillOf(meant, this);
    const tell = (signal: AbortSignal) => this.request('POST', '/v1/auth/sign-out', undefined, { signal, holds: '' });
    await inTime(FAREWELL, undefined, undefined, tell).catch(() => {});
    this.#leaving.abort(); // a refresh that hangs is not waited for
    this.#leaving = new AbortController();
    await this.#locked(async () => {
      const kept = await this.#load();
      if (!kept) return;
      stillOf(meant, this);
      await this.#end({ code: 'signed_out', reason: '', wipe, user: kept.user.id });
    });
  }

  /** @internal What is kept now: another tab may have changed it. */
  async look(): Promise<SessionState> {
    await this.#locked(() => this.#load());
    return this.state;
  }

  /** The wipe that was asked for is done. */
  async wiped(): Promise<void> {
    await this.#locked(async () => {
      await this.#load();
      if (this.#ended?.wipe) await this.#write({ session: null, ended: { ...this.#ended, wipe: false } });
    });
  }

  /**
   * Forget what is kept here, where it cannot be read and never will be: `storage` at each start, because the key store
   * was reset for example. Nobody is signed in then. The database stays whose it is, and goes on once they sign in again.
   */
  async abandon(): Promise<void> {
    await this.#locked(async () => {
      for (const name of [this.#name, `${this.#name}.installation`]) await stored('kept', () => this.#store.remove(name));
      this.#show(null);
      this.#channel?.postMessage('changed');
    });
  }

  /** Stop listening to other tabs, and waiting for a link. What is on its way comes to its end. */
  close(): void {
    this.#over.abort();
    this.#channel?.close();
    this.#channel = null;
  }

  // What follows is for `SignIn` and `OwnAccount`.

  /** @internal Says so when it is closed. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** @internal A request without a user. */
  async send<T>(method: Method, path: string, sending: Sending = {}): Promise<T> {
    try {
      const answer = await this.#http.send<T>(method, path, sending);
      this.#hear(true);
      return answer;
    } catch (error) {
      if (isError(error, 'network', 'timeout', 'not_lowtide')) this.#hear(false);
      else if (isError(error) && error.status > 0) this.#hear(true);
      throw error;
    }
  }

  /** @internal What is sent with every sign-in. */
  async facts(): Promise<{ device: DeviceFacts; space: string }> {
    const installation = this.#device.installation ?? (await this.#installation());
    return { device: { installation, ...this.#device }, space: this.#kept?.space ?? this.#space };
  }

  /** @internal `run` with the user's token, and again with a new one, and the same key, if it was refused. */
  async authorised<T>(needed: boolean, run: (token: string | null, key: string) => Promise<T>): Promise<T> {
    const key = random(); // the first request may have been done unheard, before a repeat of it was refused
    const user = this.user?.id;
    let token = await this.token();
    for (let attempt = 0; ; attempt++) {
      stillOf(user, this); // another tab may have signed somebody else in
      if (!token && needed) throw new LowtideError('not_signed_in', 'Nobody is signed in.');
      try {
        return await run(token, key);
      } catch (error) {
        const stale = isError(error, 'token_expired', 'unauthorized', 'session_revoked') && error.status === 401;
        if (!stale || !token || attempt > 0) throw error;
        token = await this.token(token);
      }
    }
  }

  /** @internal Keep what a sign-in answered. `merged`: the guest's account is part of it now. */
  async take(answer: SignedIn, merged?: string): Promise<void> {
    whole(answer);
    await this.#locked(async () => {
      const before = await this.#load();
      // An answer that is given again, whose token was renewed meanwhile: what is kept is later.
      if (before?.begun === answer.refresh_token && before.refresh_token !== before.begun) return;
      const same = before?.user.id === answer.user.id;
      let guest = same ? before.guest : null;
      if (before && !same && before.user.anonymous) guest = { token: before.refresh_token, user: before.user.id };
      const former = same ? [...before.former] : [];
      if (merged && !former.includes(merged)) former.push(merged);
      const space = before?.space ?? this.#space;
      const begun = answer.refresh_token;
      await this.#adopt(answer, { begun, secret: random(), former, guest: merged ? null : guest, space });
    });
  }

  /** @internal The anonymous account that may be merged. */
  get guest(): { token: string; user: string } | null {
    return this.#kept?.guest ?? null;
  }

  /** @internal */
  async forgetGuest(): Promise<void> {
    await this.#locked(async () => {
      const kept = await this.#load();
      if (kept?.guest) await this.#write({ session: { ...kept, guest: null } });
    });
  }

  /** @internal A text beside the session, for sign-ins that leave the app and come back. */
  async note(name: string, value?: string | null): Promise<string | null> {
    const at = `${this.#name}.${name}`;
    if (value === undefined) return stored('read', () => this.#store.get(at));
    await stored('kept', () => (value === null ? this.#store.remove(at) : this.#store.set(at, value)));
    return value;
  }

  /** A name by chance that only this installation and the server know: strangers' tries do not count against it. */
  #installation(): Promise<string> {
    return this.#locked(async () => {
      try {
        return (await this.note('installation')) ?? (await this.note('installation', random())) ?? '';
      } catch {
        return ''; // without a store nothing is known of this device, and it may still sign in
      }
    });
  }

  async #refresh(kept: Kept): Promise<Kept | null> {
    const { refresh_token, secret, space } = kept;
    try {
      const { signal } = this.#leaving;
      const rotation_id = base64url(sha256(`${secret} ${refresh_token}`));
      const body = { refresh_token, rotation_id, ...(space !== this.#space && { space }) };
      const answer = whole(await this.send('POST', '/v1/auth/token/refresh', { body, holds: 'refresh_token', signal }));
      return await this.#adopt(answer, kept);
    } catch (error) {
      // Anything else, also an answer that never came, leaves all as it is: the next try sends the same again.
      if (!isError(error, ...OVER) || error.status !== 401) throw (this.#failed = error as Error);
      const { reason, wipe } = error.problem;
      const text = typeof reason === 'string' ? reason : '';
      await this.#end({ code: error.code, reason: text, wipe: wipe === true, user: kept.user.id });
      return null;
    }
  }

  async #adopt(answer: SignedIn, rest: Pick<Kept, 'begun' | 'secret' | 'former' | 'guest' | 'space'>): Promise<Kept> {
    const { access_token, refresh_token, session_id, user, expires_in } = answer;
    const renew_at = Date.now() + Math.max(expires_in - EARLY, expires_in * 0.75) * 1000;
    const kept: Kept = { ...rest, access_token, renew_at, refresh_token, session_id, user };
    await this.#write({ session: kept });
    return kept;
  }

  async #end(ended: Ended): Promise<void> {
    await this.#write({ session: null, ended });
  }

  async #write(record: Entry): Promise<void> {
    // What is not kept does not count: what comes next repeats the same request.
    await stored('kept', () => this.#store.set(this.#name, JSON.stringify(record)));
    this.#show(record);
    this.#channel?.postMessage('changed');
  }

  async #load(): Promise<Kept | null> {
    this.#show(read(await stored('read', () => this.#store.get(this.#name))));
    return this.#kept;
  }

  #show(record: Entry | null): void {
    const before = JSON.stringify(this.state);
    this.#kept = record?.session ?? null;
    this.#ended = record?.ended ?? null;
    this.#tell(before);
  }

  #hear(heard: boolean): void {
    const before = JSON.stringify(this.state);
    this.#heard = heard;
    this.#tell(before);
  }

  #tell(before: string): void {
    if (JSON.stringify(this.state) !== before) this.#events.emit('change', this.state);
  }

  #locked<T>(work: () => Promise<T>): Promise<T> {
    return locked(`${this.#name}@${this.endpoint}`, work);
  }
}

/** What a store does; throws `storage` when it cannot. */
async function stored<T>(done: 'read' | 'kept', work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new LowtideError('storage', `The session could not be ${done}.`, { retryable: true, cause });
  }
}

/** A session is made of this. What stands between may answer with success, too: that is no session. */
function whole(answer: Partial<SignedIn>): SignedIn {
  const { access_token, refresh_token, expires_in = 0, user } = answer;
  if (access_token && refresh_token && expires_in > 0 && user?.id) return answer as SignedIn;
  throw new LowtideError('not_lowtide', 'The sign-in was answered with less than a session.', { retryable: true });
}

/** A record that is none, of a version to come or of a disk that lies, is no session. */
function read(text: string | null): Entry | null {
  try {
    const record = JSON.parse(text ?? 'null') as Entry | null;
    if (typeof record !== 'object' || record === null) return null;
    if (record.session === null) return typeof record.ended === 'object' ? record : null;
    const { refresh_token, secret, user } = record.session ?? {};
    return refresh_token && secret && user?.id ? record : null;
  } catch {
    return null;
  }
}
