// As much of Lowtide's sessions as these tests need, as strict as the server: one child for each refresh token, the
// same again only for the same rotation id, and a session that ends when two hold one token.

export class Server {
  session = 0;
  counter = 0;
  rotation = null;
  clock = 0;
  over = null;
  user = { id: 'anna', anonymous: true, claims: {}, roles: [] };

  /** One request as `fetch` sends it: `[status, answer]`. */
  answer(path, body) {
    if (path === '/v1/auth/anonymous') {
      this.session++;
      [this.counter, this.rotation, this.over] = [0, null, null];
      return [201, this.#tokens()];
    }
    if (path !== '/v1/auth/token/refresh') return [200, { path }];
    const [session, counter] = body.refresh_token.split('.').map(Number);
    if (typeof body.rotation_id !== 'string' || body.rotation_id.length < 16) return [400, { code: 'malformed' }];
    if (session !== this.session) return [401, { code: 'invalid_grant' }];
    if (this.over) return [401, { code: 'session_revoked', ...this.over }];
    if (counter === this.counter) {
      this.counter++;
      this.rotation = body.rotation_id;
    } else if (counter !== this.counter - 1 || body.rotation_id !== this.rotation) {
      this.over = { reason: 'reuse', wipe: false };
      return [401, { code: 'session_revoked', ...this.over }];
    }
    return [200, this.#tokens()];
  }

  #tokens() {
    return {
      status: 'signed_in',
      access_token: `access ${this.session}.${this.counter} ${Math.random()}`,
      refresh_token: `${this.session}.${this.counter}`,
      token_type: 'Bearer',
      expires_in: 600,
      session_id: String(this.session),
      outcome: 'signed_in',
      user: this.user
    };
  }
}

/** `fetch` over a network with faults: `lose()` says what happens to the next message. */
export function fetching(server, lose = () => null) {
  return async (address, { body, signal, headers }) => {
    await new Promise((resolve) => setImmediate(resolve));
    const fault = lose();
    if (fault === 'request') throw new TypeError('fetch failed');
    if (fault === 'portal') return new Response('<html>Sign in to this network', { status: 200 });
    if (fault === 'proxy') return new Response(JSON.stringify({ error: 'invalid_grant' }), { status: 401 });
    if (fault === 'busy') return Response.json({ code: 'unavailable' }, { status: 503 });
    const [status, answer] = server.answer(new URL(address).pathname, body && JSON.parse(body), headers);
    await new Promise((resolve) => setImmediate(resolve));
    if (fault === 'answer' || signal.aborted) throw new TypeError('fetch failed');
    if (fault === 'half') return new Response('{"access_to', { status: 200 });
    return Response.json(answer, { status });
  };
}

/** Numbers between 0 and 1 that a seed repeats. */
export function chance(seed) {
  let state = seed * 2654435761;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
