// A session as an app keeps it: on the disk before anything is sent, and over only when the server says so.

import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';

/** What the server refused: `status`, and the problem's `code`. */
export class Refused extends Error {
  constructor(status, problem) {
    super(`${status} ${problem.code}`);
    Object.assign(this, { status, code: problem.code, problem });
  }
}

export class Session {
  /** `file`: where it is kept; what is there is gone on with. */
  constructor(url, file) {
    Object.assign(this, { url, file, fetch: globalThis.fetch, refreshes: 0, kept: {} });
    if (existsSync(file)) this.kept = JSON.parse(readFileSync(file, 'utf8'));
  }

  /** One request; its answer, or `Refused`. With `anonymous`, without a token. */
  async call(method, path, body, { token = this.kept.access_token, anonymous = false } = {}) {
    const response = await this.fetch(`${this.url}${path}`, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(!anonymous && token && { authorization: `Bearer ${token}` })
      },
      body: body === undefined ? undefined : JSON.stringify(body)
    });
    const answer = response.status === 204 ? null : await response.json();
    if (!response.ok) throw new Refused(response.status, answer);
    return answer;
  }

  /** Begin without a name. */
  async begin() {
    return this.take(await this.call('POST', '/v1/auth/anonymous', {}, { anonymous: true }));
  }

  /** Prove a mailbox: an anonymous user that goes on sends their token along. What is answered, not yet taken. */
  async prove(email, mail) {
    const { flow_id } = await this.call('POST', '/v1/auth/email/start', { email }, { anonymous: true });
    return this.call('POST', '/v1/auth/email/finish', { flow_id, code: await mail.code(email) });
  }

  /** Keep what a sign-in answered. */
  take({ access_token, refresh_token, session_id, outcome, user }) {
    this.save({ access_token, refresh_token, session_id, user: user.id, fresh: true });
    return { outcome, user };
  }

  /**
   * The access token; for an app's `getToken`. One that is asked for again is refused or about to expire. Null
   * when the session is over; throws after any other failure, and goes on where it was at the next call.
   */
  token() {
    this.asking ??= this.next().finally(() => (this.asking = undefined));
    return this.asking;
  }

  async next() {
    if (!this.kept.fresh) {
      if (!this.kept.refresh_token) return null;
      try {
        await this.refresh();
      } catch (error) {
        if (!['session_revoked', 'invalid_grant'].includes(error.code)) throw error;
        this.ended = error;
        this.save({});
        return null;
      }
    }
    this.save({ ...this.kept, fresh: false });
    return this.kept.access_token;
  }

  async refresh() {
    // Kept before it is sent, so that a repeat is the same request, also after a crash.
    if (!this.kept.rotation_id) this.save({ ...this.kept, rotation_id: randomUUID() });
    const { refresh_token, rotation_id } = this.kept;
    this.refreshes++;
    const body = { refresh_token, rotation_id };
    return this.take(await this.call('POST', '/v1/auth/token/refresh', body, { anonymous: true }));
  }

  save(kept) {
    this.kept = kept;
    writeFileSync(`${this.file}.new`, JSON.stringify(kept));
    renameSync(`${this.file}.new`, this.file);
  }
}
