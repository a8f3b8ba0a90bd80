// The ways to sign in. Each ends with a session, and upgrades an anonymous user who is there already.

import type {
  Account,
  DeviceFacts,
  Flow,
  Linking,
  Merged,
  SecondFactorNeeded,
  SignedIn,
  SignInResult,
  Welcome
} from './answers.js';
import { isError, LowtideError } from './errors.js';
import { type Method, pause, type Sending, until } from './http.js';
import { browserPasskeys, chosen, type PasskeyCeremony, type PasskeyJson } from './passkeys.js';
import { base64url, sha256, token as random } from './random.js';

const ATTEMPTS = 3; // of a request whose answer is lost: it carries a key, so that it is done once
const AGAIN = 2_000; // milliseconds between two looks whether a link was confirmed

/** @internal What a sign-in ends with, and begins from: the `Session`. */
export interface SignInSession {
  readonly endpoint: string;
  /** Says so when it is closed. */
  readonly over: AbortSignal;
  readonly user: Account | null;
  /** The anonymous account that may be merged. */
  readonly guest: { readonly token: string; readonly user: string } | null;
  restore(): Promise<unknown>;
  /** One request as the user. */
  request<T>(method: Method, path: string, body: unknown, sending: Sending): Promise<T>;
  /** A request without a user. */
  send<T>(method: Method, path: string, sending: Sending): Promise<T>;
  /** `run` with the user's token, if there is one, and again with a new one, and the same key, if it was refused. */
  authorised<T>(needed: boolean, run: (token: string | null, key: string) => Promise<T>): Promise<T>;
  /** What is sent with every sign-in. */
  facts(): Promise<{ device: DeviceFacts; space: string }>;
  /** Keep what a sign-in answered. `merged`: the guest's account is part of it now. */
  take(answer: SignedIn, merged?: string): Promise<void>;
  forgetGuest(): Promise<void>;
  /** A text beside the session, for sign-ins that leave the app and come back; null removes it. */
  note(name: string, value?: string | null): Promise<string | null>;
}

export class SignIn {
  readonly #session: SignInSession;
  readonly #passkeys: PasskeyCeremony;

  /** @internal A `Session` has one. */
  constructor(session: SignInSession, passkeys: PasskeyCeremony = browserPasskeys()) {
    this.#session = session;
    this.#passkeys = passkeys;
  }

  /** Begin without a name. Who is signed in already stays so. */
  async anonymous(): Promise<Welcome> {
    const { user } = await this.#session.restore().then(() => this.#session);
    if (user) return { status: 'signed_in', outcome: 'signed_in', user, guest: null };
    const body = await this.#session.facts();
    const answer = await this.#session.send<SignedIn>('POST', '/v1/auth/anonymous', {
      body,
      attempts: ATTEMPTS,
      holds: 'refresh_token'
    });
    return this.#welcome(answer);
  }

  /** Have a code and a link mailed to this address. Show `number` of the flow to who may use the link. */
  async startEmail(email: string): Promise<Flow> {
    return this.#start('/v1/auth/email/start', { email });
  }

  /** Finish with the code from the mail. */
  async finishEmail(flow: Pick<Flow, 'flow_id'>, code: string, { link }: Linking = {}): Promise<SignInResult> {
    return this.#once('/v1/auth/email/finish', { flow_id: flow.flow_id, code, link });
  }

  /**
   * Wait until the link in the mail was opened, on whatever device, and the flow's `number` was chosen there. A network
   * that fails meanwhile is waited for, too, until `signal` gives up, or the session is closed. Where the app was closed,
   * or the answer could not be kept (`storage`), call it again with the same flow: it is one sign-in.
   */
  async waitForLink(flow: Pick<Flow, 'flow_id'>, signal?: AbortSignal, { link }: Linking = {}): Promise<SignInResult> {
    return until([signal, this.#session.over], async (end) => {
      for (;;) {
        try {
          return await this.#once('/v1/auth/email/finish', { flow_id: flow.flow_id, link }, end);
        } catch (error) {
          const passes = isError(error) && error.retryable && error.code !== 'storage';
          if (!passes && !isError(error, 'sign_in_pending', 'key_in_flight')) throw error;
          await pause(Math.max(AGAIN, (error as LowtideError).retryAfter), end);
        }
      }
    });
  }

  /** With an address and its password. */
  async password(email: string, password: string): Promise<SignInResult> {
    return this.#enter('/v1/auth/password', { email, password });
  }

  /** Sign up, or set a new password, with the code from a mail. */
  async setPassword(flow: Pick<Flow, 'flow_id'>, code: string, password: string): Promise<SignInResult> {
    return this.#once('/v1/auth/password/set', { flow_id: flow.flow_id, code, password });
  }

  /** Have a code sent to this number. */
  async startSms(phone: string): Promise<Flow> {
    return this.#start('/v1/auth/sms/start', { phone });
  }

  /** Finish with the code from the text message. */
  async finishSms(flow: Pick<Flow, 'flow_id'>, code: string, { link }: Linking = {}): Promise<SignInResult> {
    return this.#once('/v1/auth/sms/finish', { flow_id: flow.flow_id, code, link });
  }

  /** The second factor: a code from the authenticator app, or a recovery code. */
  async secondFactor(needed: Pick<SecondFactorNeeded, 'ticket'>, code: string): Promise<SignInResult> {
    return this.#once('/v1/auth/second-factor', { ticket: needed.ticket, code });
  }

  /** With a passkey; as the second factor, if a sign-in waits for one. */
  async passkey(needed?: Pick<SecondFactorNeeded, 'ticket'>, ceremony = this.#passkeys): Promise<SignInResult> {
    const ticket = needed ? { ticket: needed.ticket } : {};
    const path = '/v1/auth/passkeys/sign-in';
    const begin = { body: ticket, holds: 'publicKey' };
    const begun = await this.#session.send<{ publicKey: PasskeyJson }>('POST', `${path}/begin`, begin);
    const credential = await chosen(ceremony.get(begun.publicKey));
    return this.#enter(path, { credential, ...ticket });
  }

  /** A nonce for `idToken`: Apple's and Google's sheets take `hashed` or `raw`, the server takes `raw`. */
  nonce(): { raw: string; hashed: string } {
    const raw = random(24);
    const hashed = Array.from(sha256(raw), (byte) => byte.toString(16).padStart(2, '0')).join('');
    return { raw, hashed };
  }

  /** With what the phone's own sheet gave. */
  async idToken(given: {
    provider: 'apple' | 'google';
    id_token: string;
    nonce: string;
    authorization_code?: string;
    name?: string;
    link?: boolean;
  }): Promise<SignInResult> {
    return this.#once('/v1/auth/id-token', given);
  }

  /**
   * Begin with an OpenID provider: open `url` in the system's browser, and give the address at which the app is
   * called back to `finishUpstream`. What must be known then is kept: the app may be closed in between.
   * `max_age`: for a step-up, how many seconds ago the user may have signed in there; beyond it they are asked.
   */
  async startUpstream(
    provider: string,
    redirect_uri: string,
    login_hint = '',
    max_age?: number,
  ): Promise<{ url: string }> {
    const [verifier, state] = [random(32), random()];
    await this.#session.note('upstream', JSON.stringify({ verifier, state }));
    const challenge = base64url(sha256(verifier));
    const age = max_age === undefined ? {} : { max_age: `${max_age}` };
    const query = Object.entries({ redirect_uri, challenge, state, ...(login_hint && { login_hint }), ...age })
      .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
      .join('&');
    return { url: `${this.#session.endpoint}/v1/auth/oidc/${encodeURIComponent(provider)}/start?${query}` };
  }

  /** Finish with the address at which the app was called back. Throws the provider's `error` as code. */
  async finishUpstream(address: string, { link }: Linking = {}): Promise<SignInResult> {
    const given = new Map<string, string>();
    const kept = await this.#session.note('upstream');
    let begun: { verifier?: string; state?: string } = {};
    try {
      for (const pair of (/\?([^#]*)/.exec(address)?.[1] ?? '').split('&')) {
        const [name = '', value = ''] = pair.split('=').map((text) => decodeURIComponent(text.replaceAll('+', ' ')));
        given.set(name, value);
      }
      begun = JSON.parse(kept ?? '{}') as typeof begun;
    } catch {
      // An address that is none, or a note that is none: told below.
    }
    const { verifier, state } = begun;
    if (!verifier || given.get('state') !== state) {
      throw new LowtideError('bad_callback', 'This is not the way back of the sign-in that was begun here.');
    }
    const refused = given.get('error');
    if (refused) {
      await this.#session.note('upstream', null);
      throw new LowtideError(refused, given.get('error_description') || 'The provider did not sign in.');
    }
    const result = await this.#once('/v1/auth/oidc/finish', { code: given.get('code') ?? '', verifier, link });
    await this.#session.note('upstream', null);
    return result;
  }

  /**
   * Make the anonymous account that was left behind (`Welcome.guest`) part of the one that is signed in, with all
   * that was written under it, also what still waits on this device.
   */
  async merge(): Promise<Merged> {
    const session = this.#session;
    await session.restore();
    const guest = session.guest;
    if (!guest) throw new LowtideError('not_retryable', 'There is no account to merge.');
    const body = { token: guest.token };
    const merged = await session.request<Merged & { signed: SignedIn }>('POST', '/v1/auth/merge', body, {
      deadline: 60_000,
      attempts: ATTEMPTS,
      holds: 'signed'
    });
    await session.take(merged.signed, guest.user);
    return { records: merged.records, left: merged.left };
  }

  /** Leave the anonymous account behind for good. */
  async forgetGuest(): Promise<void> {
    await this.#session.restore();
    await this.#session.forgetGuest();
  }

  async #start(path: string, given: object): Promise<Flow> {
    const { device } = await this.#session.facts();
    const body = { ...given, device };
    return this.#session.send<Flow>('POST', path, { body, attempts: ATTEMPTS, holds: 'flow_id' });
  }

  /**
   * With what counts once: the key is made of it, so that an answer that nobody heard is given again to whoever tries
   * once more, also after minutes, or a start.
   */
  #once(path: string, given: object, signal?: AbortSignal): Promise<SignInResult> {
    return this.#enter(path, given, signal, base64url(sha256(path + JSON.stringify(given))));
  }

  async #enter(path: string, given: object, signal?: AbortSignal, once?: string): Promise<SignInResult> {
    const answer = await this.#session.authorised(false, async (token, any) => {
      const key = once ?? any;
      const body = { ...given, ...(await this.#session.facts()) };
      const sending = { body, token, signal, attempts: ATTEMPTS, key, holds: 'expires_in' };
      return this.#session.send<SignedIn | SecondFactorNeeded>('POST', path, sending);
    });
    return answer.status === 'second_factor_needed' ? answer : this.#welcome(answer);
  }

  async #welcome(answer: SignedIn): Promise<Welcome> {
    await this.#session.take(answer);
    const { outcome, user } = answer;
    return { status: 'signed_in', outcome, user, guest: this.#session.guest?.user ?? null };
  }
}
