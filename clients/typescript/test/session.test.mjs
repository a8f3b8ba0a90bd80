// A session over months of bad networks, crashes, tabs and full disks: only the server ends it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryStore } from '../dist/storage.js';
import { chance, fetching, Server } from './server.mjs';

// Each import is a tab of its own: what they share is the store, and, as over Web Locks, who may go first.
const tab = async (name) => (await import(`../dist/session.js?${name}`)).Session;
const [First, Second] = [await tab('first'), await tab('second')];
// And these share nothing but the store, as on a page without Web Locks.
const BUNDLE = '../../../src/lowtide/clients/runtime/lowtide.js';
const [Third, Fourth] = [(await import(`${BUNDLE}?third`)).Session, (await import(`${BUNDLE}?fourth`)).Session];
const FAULTS = ['request', 'answer', 'answer', 'half', 'portal', 'proxy', 'busy'];

test('no loss, no crash and no other tab ever signs anybody out', async () => {
  let [refreshes, lost, crashes, refused] = [0, 0, 0, 0];
  for (let seed = 1; seed <= 60; seed++) {
    const random = chance(seed);
    const server = new Server();
    const shared = memoryStore();
    let full = false;
    const store = {
      ...shared,
      async set(name, value) {
        if (full && random() < 0.3) throw new Error('the disk is full');
        await shared.set(name, value);
      }
    };
    const rate = [0, 0.1, 0.3, 0.7][seed % 4];
    const lose = () => {
      if (random() >= rate) return null;
      lost++;
      return FAULTS[Math.floor(random() * FAULTS.length)];
    };
    const open = async (Session) => {
      const session = new Session({ endpoint: 'http://x', store, fetch: fetching(server, lose) });
      await session.restore();
      return session;
    };
    const first = new First({ endpoint: 'http://x', store, fetch: fetching(server) });
    await first.signIn.anonymous();
    const tabs = [await open(First), await open(Second)];
    first.close();
    full = seed % 3 === 0;
    for (let step = 0; step < 60; step++) {
      const which = Math.floor(random() * 2);
      if (random() < 0.1) {
        tabs[which].close(); // the tab is killed, and opened again
        tabs[which] = await open([First, Second][which]);
        crashes++;
      }
      // Tabs take turns, as Web Locks have them do; within one everything happens at once.
      const asked = await Promise.allSettled(
        Array.from({ length: 1 + Math.floor(random() * 3) }, async () => {
          const token = await tabs[which].token();
          return random() < 0.7 ? tabs[which].token(token) : token;
        })
      );
      for (const { status, value, reason } of asked) {
        if (status === 'fulfilled') assert.notEqual(value, null, `seed ${seed}: signed out at step ${step}`);
        else if (!reason.retryable) throw reason;
        else refused++;
      }
      assert.equal(tabs[which].user?.id, 'anna');
    }
    assert.equal(server.over, null, `seed ${seed}: the server saw two holders of a token`);
    refreshes += server.counter;
    tabs.forEach((each) => each.close());
  }
  assert.ok(refreshes > 800 && lost > 500 && crashes > 100 && refused > 300, String([refreshes, lost, crashes, refused]));
});

test('without Web Locks two tabs may refresh in the same moment', async () => {
  let [repeats, lost] = [0, 0];
  for (let seed = 1; seed <= 60; seed++) {
    const random = chance(seed);
    const server = new Server();
    const store = memoryStore();
    const lose = () => (random() < 0.3 ? (lost++, FAULTS[Math.floor(random() * FAULTS.length)]) : null);
    const first = new Third({ endpoint: 'http://x', store, fetch: fetching(server) });
    await first.signIn.anonymous();
    first.close();
    const tabs = [Third, Fourth].map((Session) => new Session({ endpoint: 'http://x', store, fetch: fetching(server, lose) }));
    for (let step = 0; step < 30; step++) {
      const before = server.counter;
      // Both find the token refused, and both ask for the next one.
      const stale = JSON.parse(await store.get('lowtide.session')).session.access_token;
      await Promise.allSettled(tabs.map((each) => each.token(stale)));
      repeats += server.counter - before === 1;
      for (const each of tabs) assert.equal(each.user?.id, 'anna', `seed ${seed}: signed out at step ${step}`);
    }
    assert.equal(server.over, null, `seed ${seed}: the server saw two holders of a token`);
    tabs.forEach((each) => each.close());
  }
  assert.ok(repeats > 500 && lost > 500, String([repeats, lost]));
});

test('the control: a client that makes up a new rotation id for each try is signed out', async () => {
  const server = new Server();
  const [, begun] = server.answer('/v1/auth/anonymous', {});
  const refresh = (id) => server.answer('/v1/auth/token/refresh', { refresh_token: begun.refresh_token, rotation_id: id.repeat(20) });
  assert.equal(refresh('a')[0], 200);
  assert.equal(refresh('a')[0], 200);
  assert.equal(refresh('b')[1].code, 'session_revoked');
});

async function signedIn(fetch, more = {}) {
  const store = memoryStore();
  const session = new First({ endpoint: 'http://x', store, fetch, ...more });
  await session.signIn.anonymous();
  return { session, store };
}

test('starting needs no network, and says who is signed in', async () => {
  const server = new Server();
  const { session, store } = await signedIn(fetching(server));
  session.close();
  const never = new First({ endpoint: 'http://x', store, fetch: () => assert.fail('the network was asked') });
  const state = await never.restore();
  assert.deepEqual([state.status, state.user.id], ['authenticated_offline', 'anna']);
  never.close();
});

test('the state goes offline and back, and is told', async () => {
  let fault = null;
  const { session } = await signedIn(fetching(new Server(), () => fault));
  const heard = [];
  const stop = session.onChange(({ status }) => heard.push(status));
  fault = 'request';
  await assert.rejects(session.refresh(), { code: 'network' });
  fault = 'portal';
  await assert.rejects(session.refresh(), { code: 'not_lowtide' });
  fault = null;
  await session.refresh();
  assert.deepEqual(heard, ['authenticated_offline', 'authenticated']);
  stop();
  fault = 'request';
  await assert.rejects(session.refresh());
  assert.equal(heard.length, 2);
  session.close();
});

test('a session that the server ended is over, here and after a start, with its reason and the wipe', async () => {
  const server = new Server();
  const { session, store } = await signedIn(fetching(server));
  const before = await session.token();
  server.over = { reason: 'user', wipe: true };
  assert.equal(await session.token(before), null);
  const ended = { code: 'session_revoked', reason: 'user', wipe: true, user: 'anna' };
  assert.deepEqual(session.state, { status: 'signed_out', ended });
  session.close();
  const again = new First({ endpoint: 'http://x', store, fetch: () => assert.fail('the network was asked') });
  assert.deepEqual(await again.restore(), { status: 'signed_out', ended });
  assert.equal(await again.token(), null);
  await again.wiped();
  assert.deepEqual(again.state.ended, { ...ended, wipe: false });
  again.close();
});

test('a success of who knows whom is no session, and ends none', async () => {
  const server = new Server();
  const text = () => JSON.stringify(server.answer('/v1/auth/anonymous')[1]);
  const lacking = ['access_token', 'refresh_token', 'user', 'expires_in'].map((name) => ({ ...JSON.parse(text()), [name]: null }));
  for (const answer of ['', 'null', '7', '"x"', '[]', '{}', '{"error":"sign in to this network"}', ...lacking.map((one) => JSON.stringify(one))]) {
    const store = memoryStore();
    let portal = false;
    const network = fetching(server);
    const fetch = (...call) => (portal ? Promise.resolve(new Response(answer)) : network(...call));
    const session = new First({ endpoint: 'http://x', store, fetch });
    portal = true;
    await assert.rejects(session.signIn.anonymous(), { code: 'not_lowtide', retryable: true }, answer);
    await assert.rejects(session.signIn.password('a@x', 'b'), { code: 'not_lowtide' }, answer);
    assert.deepEqual([session.user, await store.get('lowtide.session')], [null, null], answer);
    portal = false;
    await session.signIn.anonymous();
    const [kept, token] = [await store.get('lowtide.session'), await session.token()];
    portal = true;
    await assert.rejects(session.token(token), { code: 'not_lowtide', retryable: true }, answer);
    assert.deepEqual([session.user?.id, await store.get('lowtide.session')], ['anna', kept], answer);
    portal = false;
    assert.notEqual(await session.token(token), token, 'it goes on');
    session.close();
  }
  assert.equal(server.over, null);
});

test('whatever a passkey comes to is an error of this package', async () => {
  const named = (name) => Object.assign(new Error('x'), { name });
  const ways = [
    [new DOMException('x', 'NotAllowedError'), 'aborted'],
    [new DOMException('x', 'AbortError'), 'aborted'],
    [named('UserCancelled'), 'aborted'],
    [new DOMException('x', 'InvalidStateError'), 'not_retryable'],
    [new DOMException('x', 'SecurityError'), 'unsupported'],
    [new TypeError('x'), 'unsupported'],
    [undefined, 'unsupported']
  ];
  const server = new Server();
  const { answer } = server;
  server.answer = (path, ...more) => (path.includes('passkeys') ? [200, { publicKey: {} }] : answer.call(server, path, ...more));
  for (const [thrown, code] of ways) {
    const fails = () => Promise.reject(thrown);
    const session = new First({ endpoint: 'http://x', store: memoryStore(), fetch: fetching(server), passkeys: { create: fails, get: fails } });
    await assert.rejects(session.signIn.passkey(), { code, name: 'LowtideError' });
    await session.signIn.anonymous();
    await assert.rejects(session.account.addPasskey('Phone'), { code, name: 'LowtideError' });
    session.close();
  }
});

test('a token that could not be kept is not used: the next start repeats the request', async () => {
  const server = new Server();
  const kept = memoryStore();
  let full = false;
  const store = { ...kept, set: (name, value) => (full ? Promise.reject(new Error('full')) : kept.set(name, value)) };
  const session = new First({ endpoint: 'http://x', store, fetch: fetching(server) });
  await session.signIn.anonymous();
  const token = await session.token();
  full = true;
  await assert.rejects(session.token(token), { code: 'storage', retryable: true });
  await assert.rejects(session.token(token), { code: 'storage' });
  assert.equal(await session.token(), token, 'a token was used that is not kept');
  session.close();
  full = false;
  const again = new First({ endpoint: 'http://x', store, fetch: fetching(server) });
  assert.notEqual(await again.token(token), null);
  assert.equal(server.over, null);
  again.close();
});

test('a store that cannot be read signs nobody out', async () => {
  const server = new Server();
  const { session, store } = await signedIn(fetching(server));
  session.close();
  let locked = true;
  const locking = { ...store, get: (name) => (locked ? Promise.reject(new Error('locked')) : store.get(name)) };
  const again = new First({ endpoint: 'http://x', store: locking, fetch: fetching(server) });
  await assert.rejects(again.restore(), { code: 'storage', retryable: true });
  await assert.rejects(again.token(), { code: 'storage' });
  await assert.rejects(again.signIn.finishUpstream('com.example:/in'), { code: 'storage' });
  locked = false;
  assert.equal((await again.restore()).status, 'authenticated_offline');
  again.close();
});

test('what is kept by nobody that we know is no session, and breaks nothing', async () => {
  for (const text of ['', 'null', '7', '[]', '{}', '{"session":{}}', '{"session":null}', '{"session":7}', '{', '"x"']) {
    const store = memoryStore();
    await store.set('lowtide.session', text);
    const session = new First({ endpoint: 'http://x', store, fetch: fetching(new Server()) });
    assert.equal((await session.restore()).status, 'signed_out', text);
    assert.equal((await session.signIn.anonymous()).user.id, 'anna');
    session.close();
  }
});

test('one tab hears of what another one did', async () => {
  const server = new Server();
  const { session, store } = await signedIn(fetching(server));
  const other = new Second({ endpoint: 'http://x', store, fetch: fetching(server) });
  await other.restore();
  const heard = new Promise((resolve) => other.onChange(({ status }) => status === 'signed_out' && resolve(status)));
  const patience = setTimeout(() => {}, 10_000); // listening to other tabs keeps no process alive
  await session.signOut();
  assert.equal(await heard, 'signed_out');
  clearTimeout(patience);
  assert.equal(other.user, null);
  session.close();
  other.close();
});

test('an answer that is given again after its session went on takes nothing back', async () => {
  const server = new Server();
  const store = memoryStore();
  const [, answer] = server.answer('/v1/auth/anonymous', {});
  const fetch = async (address, init) =>
    address.endsWith('/email/finish') ? Response.json(answer) : fetching(server)(address, init);
  const tab = (Session) => new Session({ endpoint: 'http://x', store, fetch });
  const [one, two] = [tab(First), tab(Second)];
  await one.signIn.waitForLink({ flow_id: 'f' });
  answer.user = { ...answer.user, anonymous: false }; // whoever proves anew who they are has the token that they have
  await one.signIn.waitForLink({ flow_id: 'f' });
  assert.equal(one.user.anonymous, false);
  for (let turn = 0; turn < 3; turn++) await one.refresh();
  const kept = await store.get('lowtide.session');
  assert.equal((await two.signIn.waitForLink({ flow_id: 'f' })).user.id, 'anna'); // it had not heard
  assert.equal(await store.get('lowtide.session'), kept);
  await two.refresh();
  assert.deepEqual([server.over, two.state.status], [null, 'authenticated']);
  one.close();
  two.close();
});

test('two at once ask for one refresh', async () => {
  const server = new Server();
  const { session } = await signedIn(fetching(server));
  const token = await session.token();
  const tokens = await Promise.all(Array.from({ length: 5 }, () => session.token(token)));
  assert.equal(new Set(tokens).size, 1);
  assert.equal(server.counter, 1);
  session.close();
});

test('while a network hangs, many who ask wait once, and a start waits not at all', async () => {
  let hanging = [];
  let asked = 0;
  const server = new Server();
  const good = fetching(server);
  let bad = false;
  const fetch = (address, options) => {
    if (!bad) return good(address, options);
    asked++;
    return new Promise((_, reject) => hanging.push(() => reject(new TypeError('fetch failed'))));
  };
  const { session, store } = await signedIn(fetch);
  const token = await session.token();
  bad = true;
  const waiting = Array.from({ length: 5 }, () => session.token(token).catch(({ code }) => code));
  while (hanging.length === 0) await new Promise(setImmediate);
  const other = new First({ endpoint: 'http://x', store, fetch });
  assert.equal((await other.restore()).user.id, 'anna'); // in the middle of it
  hanging.forEach((fail) => fail());
  assert.deepEqual(await Promise.all(waiting), Array(5).fill('network'));
  assert.equal(asked, 1);
  bad = false;
  assert.notEqual(await session.token(token), null); // who asks later has a try of their own
  session.close();
  other.close();
});

test('a callback of another sign-in is refused, and one of this is taken once', async () => {
  const server = new Server();
  const sent = [];
  const answering = server.answer.bind(server);
  server.answer = (path, body) => {
    sent.push([path, body]);
    return path === '/v1/auth/oidc/finish' ? answering('/v1/auth/anonymous') : answering(path, body);
  };
  const store = memoryStore();
  const session = new First({ endpoint: 'http://x', store, fetch: fetching(server) });
  assert.equal(new URL((await session.signIn.startUpstream('okta', 'x:/in', '', 0)).url).searchParams.get('max_age'), '0');
  const { url } = await session.signIn.startUpstream('okta', 'com.example:/in');
  const state = new URL(url).searchParams.get('state');
  assert.equal(new URL(url).searchParams.get('max_age'), null);
  assert.match(new URL(url).searchParams.get('challenge'), /^[\w-]{43}$/);
  await assert.rejects(session.signIn.finishUpstream('com.example:/in?code=stolen&state=other'), { code: 'bad_callback' });
  await assert.rejects(session.signIn.finishUpstream('com.example:/in'), { code: 'bad_callback' });
  await assert.rejects(session.signIn.finishUpstream(`com.example:/in?state=${state}&code=%zz`), { code: 'bad_callback' });
  assert.deepEqual(sent, []);
  const again = new First({ endpoint: 'http://x', store, fetch: fetching(server) }); // closed in between
  const result = await again.signIn.finishUpstream(`com.example:/in?state=${state}&code=a%2Bb+c#x`);
  assert.equal(result.status, 'signed_in');
  assert.equal(sent[0][1].code, 'a+b c');
  await assert.rejects(again.signIn.finishUpstream(`com.example:/in?state=${state}&code=x`), { code: 'bad_callback' });
  session.close();
  again.close();
});

test('an installation has one name by chance, over sign-outs and starts, in the first request too', async () => {
  const store = memoryStore();
  const heard = [];
  const fetch = async (_, { body }) => {
    heard.push(JSON.parse(body).device.installation);
    return Response.json({ flow_id: 'f', expires_in: 600 });
  };
  for (let start = 0; start < 2; start++) {
    const session = new First({ endpoint: 'http://x', store, fetch, device: { name: 'Phone' } });
    await session.restore();
    await session.signIn.startEmail('ann@example.com');
    await session.signOut();
  }
  const other = new First({ endpoint: 'http://x', store: memoryStore(), fetch });
  await other.signIn.startEmail('ann@example.com');
  assert.equal(heard[0], heard[1]);
  assert.ok(heard[0].length >= 16);
  assert.notEqual(heard[2], heard[0]);
});

test('a request whose answer is lost, and whose repeat meets an expired token, is one request to the server', async () => {
  const server = new Server();
  const good = fetching(server);
  const keys = [];
  const faults = [() => Promise.reject(new TypeError('fetch failed')), () => Response.json({ code: 'token_expired' }, { status: 401 })];
  const fetch = async (address, init) => {
    if (!address.endsWith('/v1/auth/passkeys')) return good(address, init);
    keys.push(init.headers['idempotency-key']);
    return faults.shift()?.() ?? Response.json({});
  };
  const { session } = await signedIn(fetch);
  await session.request('POST', '/v1/auth/passkeys', {}, { attempts: 3 });
  assert.equal(keys.length, 3);
  assert.ok(keys[0].length >= 16);
  assert.equal(new Set(keys).size, 1);
  assert.equal(server.counter, 1, 'the token was renewed');
  session.close();
});

test('what one user asked for is not asked for again as another who signs in meanwhile', async () => {
  const server = new Server();
  const store = memoryStore();
  const asked = [];
  const plain = fetching(server);
  let [other, meanwhile] = [null, async () => {}];
  const fetch = async (address, init) => {
    if (!address.endsWith('/v1/auth/me')) return plain(address, init);
    asked.push(init.headers.authorization);
    await meanwhile();
    return asked.length > 1 ? Response.json({}) : Response.json({ code: 'session_revoked' }, { status: 401 });
  };
  const session = new First({ endpoint: 'http://x', store, fetch });
  await session.signIn.anonymous();
  session.close(); // the other tab's word has not come yet
  meanwhile = async () => {
    other = new Second({ endpoint: 'http://x', store, fetch: plain });
    await other.signOut();
    server.user = { ...server.user, id: 'ben' };
    await other.signIn.anonymous();
  };
  await assert.rejects(session.account.delete(), { code: 'other_user' });
  assert.equal(asked.length, 1);
  assert.equal(session.user.id, 'ben');
  other.close();
});
