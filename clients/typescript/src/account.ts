// What users do with their own account. Some of it needs a sign-in of the last minutes: `step_up_required`
// otherwise, and any way to sign in is a step-up.

import type { Account, Device, Identity, Passkey } from './answers.js';
import type { Method, Sending } from './http.js';
import { browserPasskeys, chosen, type PasskeyCeremony, type PasskeyJson } from './passkeys.js';

const ME = '/v1/auth/me';
const ACCOUNT = 'anonymous'; // what an account is told by
const PASSKEYS = '/v1/auth/passkeys';
const SESSIONS = '/v1/auth/sessions';

/** @internal Who is signed in, as far as their account needs to know: the `Session`. */
export interface AccountSession {
  request<T = unknown>(method: Method, path: string, body?: unknown, sending?: Sending): Promise<T>;
  refresh(): Promise<unknown>;
}

export class OwnAccount {
  readonly #session: AccountSession;
  readonly #passkeys: PasskeyCeremony;

  /** @internal A `Session` has one. */
  constructor(session: AccountSession, passkeys: PasskeyCeremony = browserPasskeys()) {
    this.#session = session;
    this.#passkeys = passkeys;
  }

  read(): Promise<Account> {
    return this.#session.request('GET', ME, undefined, { holds: ACCOUNT });
  }

  /** Change the name; null takes it away. */
  async rename(name: string | null): Promise<Account> {
    const account = await this.#session.request<Account>('PATCH', ME, { name }, { holds: ACCOUNT });
    await this.#renew();
    return account;
  }

  /** Where the user is signed in, the newest first. */
  async devices(): Promise<readonly Device[]> {
    return this.#list(SESSIONS, 'sessions');
  }

  /** Sign one device out; with `wipe` it is asked to delete what it holds, too. */
  async signOutDevice(id: string, { wipe = false } = {}): Promise<void> {
    await this.#do('DELETE', `${SESSIONS}/${encodeURIComponent(id)}${wipe ? '?wipe=true' : ''}`);
  }

  /** Sign every other device out. */
  async signOutOthers({ wipe = false } = {}): Promise<void> {
    await this.#do('POST', `${SESSIONS}/end-others`, { wipe });
  }

  /** The ways in that the user has. */
  async identities(): Promise<readonly Identity[]> {
    return this.#list('/v1/auth/identities', 'identities');
  }

  /** Take a way in away; never the last one. */
  async unlink({ provider, subject }: Pick<Identity, 'provider' | 'subject'>): Promise<void> {
    await this.#do('DELETE', `/v1/auth/identities/${[provider, subject].map(encodeURIComponent).join('/')}`);
  }

  /** A new password, with the present one unless the user has just signed in. Ends every other session. */
  async changePassword(password: string, current?: string): Promise<void> {
    await this.#do('PUT', `${ME}/password`, { password, ...(current !== undefined && { current }) });
  }

  /** Begin to set up an authenticator app: show `uri` as a QR code, or `secret` to type. */
  enrolSecondFactor(): Promise<{ secret: string; uri: string }> {
    return this.#session.request('POST', `${ME}/second-factor`, undefined, { holds: 'secret' });
  }

  /** Put it into force with a code from it. The recovery codes are shown this once. */
  async confirmSecondFactor(code: string): Promise<readonly string[]> {
    return this.#codes('confirm', { code });
  }

  /** New recovery codes in place of the old ones. */
  async renewRecoveryCodes(): Promise<readonly string[]> {
    return this.#codes('recovery-codes');
  }

  async removeSecondFactor(): Promise<void> {
    await this.#do('DELETE', `${ME}/second-factor`);
  }

  /** Make a passkey on this device. An anonymous user is one no longer, and keeps their id. */
  async addPasskey(name: string, ceremony = this.#passkeys): Promise<Passkey> {
    const begin = { holds: 'publicKey' };
    const begun = await this.#session.request<{ publicKey: PasskeyJson }>('POST', `${PASSKEYS}/begin`, undefined, begin);
    const credential = await chosen(ceremony.create(begun.publicKey));
    const sending = { attempts: 3, holds: 'transports' };
    const passkey = await this.#session.request<Passkey>('POST', PASSKEYS, { credential, name }, sending);
    await this.#renew();
    return passkey;
  }

  async passkeys(): Promise<readonly Passkey[]> {
    return this.#list(PASSKEYS, 'passkeys');
  }

  async renamePasskey(id: string, name: string): Promise<void> {
    await this.#do('PATCH', `${PASSKEYS}/${encodeURIComponent(id)}`, { name });
  }

  async deletePasskey(id: string): Promise<void> {
    await this.#do('DELETE', `${PASSKEYS}/${encodeURIComponent(id)}`);
  }

  /** Delete the account. The session ends at the next request, with a wipe. */
  async delete(): Promise<void> {
    await this.#do('DELETE', ME);
    await this.#renew(); // hears of the end, and of the wipe
  }

  /** Fetch what has changed. It is done already: without a network it comes with the next token. */
  async #renew(): Promise<void> {
    await this.#session.refresh().catch(() => {});
  }

  async #codes(step: string, body?: object): Promise<readonly string[]> {
    return this.#list(`${ME}/second-factor/${step}`, 'recovery_codes', 'POST', body);
  }

  async #list<T>(path: string, holds: string, method: Method = 'GET', body?: object): Promise<readonly T[]> {
    return (await this.#session.request<Record<string, T[]>>(method, path, body, { holds }))[holds]!;
  }

  async #do(method: Method, path: string, body?: object): Promise<void> {
    await this.#session.request(method, path, body, { holds: '' });
  }
}
