// Whose a database is: several tabs, several users, and a page that is gone in the middle of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { locked } from '../dist/lock.js';
import { Lowtide } from '../dist/lowtide.js';
import { Session } from '../dist/session.js';
import { memoryStore } from '../dist/storage.js';
import { fetching, Server } from './server.mjs';

/** The database of one origin, with rows and a queue, opened by each tab. */
function disk(name = 'app.db') {
  const self = { notes: new Map(), rows: 0, waiting: 0, emptied: 0, connected: 0, fails: null, hangs: null, leaves: null, listeners: 0 };
  self.open = () => ({
    database: { name },
    connected: false,
    connect: async () => void self.connected++,
    disconnect: async () => void (await self.leaves?.()),
    async disconnectAndClear() {
      await new Promise(setImmediate);
      await self.hangs;
      if (self.fails) throw self.fails;
      self.emptied++;
      self.rows = self.waiting = 0;
    },
    get: async () => ({ n: self.waiting }),
    getOptional: async (_, [name]) => (self.notes.has(name) ? { value: self.notes.get(name) } : null),
    execute: async (sql, [name, value] = []) => void (sql.startsWith('INSERT') && self.notes.set(name, value)),
    registerListener: () => (self.listeners++, () => self.listeners--)
  });
  return self;
}
const ENDPOINT = 'http://x';
const still = { background: 'stay', now: () => ({ online: true, metered: false, visible: true }), subscribe: () => () => {} };

test('a tab that has not heard of the new owner does not empty the database', async () => {
  const data = disk();
  const identity = { user: 'anna', former: [] };
  const tab = () => new Lowtide(data.open(), { endpoint: ENDPOINT, tokens: { token: async () => 't', identity }, surroundings: still });
  const [one, two] = [tab(), tab()];
  await one.connect();
  await two.connect();
  data.rows = 3;
  identity.user = 'ben';
  await one.connect();
  assert.deepEqual([data.emptied, data.notes.get('owner')], [1, 'ben']);
  data.waiting = 1; // what ben wrote in the first tab
  data.rows = 1;
  assert.equal((await two.connector.fetchCredentials()).token, 't');
  await two.connect();
  assert.deepEqual([data.emptied, data.rows, data.waiting], [1, 1, 1]);
  // And where both see the new user in the same moment, one empties.
  data.waiting = 0;
  identity.user = 'zoe';
  await Promise.all([one.connect(), two.connect()]);
  assert.equal(data.emptied, 2);
  // A tab of a former user sends nothing of the present one's.
  data.notes.set('owner', 'anna');
  await assert.rejects(one.connector.fetchCredentials(), { code: 'other_user' });
  await Promise.all([one.close(), two.close()]);
});

/** A tab of anna's, signed in, with what she has on `data`. */
async function signedIn(data, server = new Server(), store = memoryStore()) {
  const session = new Session({ endpoint: ENDPOINT, store, fetch: fetching(server) });
  await session.restore();
  if (!session.user) await session.signIn.anonymous();
  const lowtide = new Lowtide(data.open(), { tokens: session, surroundings: still });
  const heard = [];
  lowtide.on('wiped', (event) => heard.push(event));
  await lowtide.connect();
  return { session, lowtide, store, server, heard, close: () => lowtide.close().then(() => session.close()) };
}

test('a sign-out that the app did not live to finish is finished at the next start', async () => {
  const data = disk();
  const tab = await signedIn(data);
  data.rows = 3;
  data.fails = new Error('the page is gone');
  await assert.rejects(tab.lowtide.signOut(), { message: 'the page is gone' });
  await tab.close();
  assert.deepEqual([tab.session.user, data.rows], [null, 3]);
  data.fails = null;
  const session = new Session({ endpoint: ENDPOINT, store: tab.store, fetch: () => assert.fail('the network was asked') });
  const again = new Lowtide(data.open(), { tokens: session, surroundings: still });
  again.on('wiped', () => assert.fail("one's own sign-out was told"));
  await again.open();
  assert.deepEqual([data.rows, data.emptied, data.notes.get('owner')], [0, 1, '']);
  assert.equal(session.state.ended.wipe, false);
  await again.close();
  session.close();
  // Once: what comes to be there later stays.
  data.rows = 1;
  const third = new Session({ endpoint: ENDPOINT, store: tab.store, fetch: () => assert.fail('the network was asked') });
  const last = new Lowtide(data.open(), { tokens: third, surroundings: still });
  await last.open();
  assert.equal(data.rows, 1);
  await last.close();
  third.close();
});

test("a sign-out empties the database, without an event; a wipe by the server is told", async () => {
  const data = disk();
  const own = await signedIn(data);
  data.rows = 3;
  await own.lowtide.signOut();
  assert.deepEqual([data.rows, own.session.state.ended.wipe, own.heard], [0, false, []]);
  await own.close();
  const swept = await signedIn(data);
  data.rows = 3;
  const told = new Promise((resolve) => swept.lowtide.on('wiped', resolve));
  const patience = setTimeout(() => {}, 10_000);
  swept.server.over = { reason: 'user', wipe: true };
  await swept.session.token(await swept.session.token());
  assert.deepEqual(await told, { user: 'anna' });
  clearTimeout(patience);
  assert.deepEqual([data.rows, swept.session.state.ended.wipe], [0, false]);
  // Signed out already: what is there goes nevertheless.
  data.rows = 1;
  await swept.lowtide.signOut();
  assert.equal(data.rows, 0);
  await swept.close();
});

test('a sign-out empties the database once, and takes nothing from who begins meanwhile', async () => {
  const data = disk();
  const tab = await signedIn(data);
  data.rows = 3;
  // The app begins anew as soon as the database is empty, and the new user writes.
  const { server } = tab;
  let begun = null;
  const begin = async () => {
    server.user = { ...server.user, id: 'ben' };
    await tab.session.signIn.anonymous();
    const other = new Lowtide(data.open(), { tokens: tab.session, surroundings: still });
    await other.connect();
    data.waiting = 1;
    return other;
  };
  tab.session.onChange((state) => {
    if (state.status === 'signed_out' && !state.ended.wipe) begun ??= begin();
  });
  await tab.lowtide.signOut();
  const other = await begun;
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  assert.deepEqual([data.emptied, data.rows, data.waiting, data.notes.get('owner')], [1, 0, 1, 'ben']);
  await other.close();
  await tab.close();
  // Where no session is, it is once, too.
  const plain = disk();
  const identity = { user: 'anna', former: [] };
  const lowtide = new Lowtide(plain.open(), { endpoint: ENDPOINT, tokens: { token: async () => 't', identity }, surroundings: still });
  await lowtide.connect();
  await lowtide.signOut();
  assert.deepEqual([plain.emptied, plain.notes.get('owner')], [1, '']);
  await lowtide.close();
});

test('who signs in before the sign-out has emptied the database gets it empty, and is connected', async () => {
  const data = disk();
  const tab = await signedIn(data);
  [data.rows, data.waiting] = [3, 1];
  let [go, taken] = [null, null];
  const held = new Promise((resolve) => (taken = resolve));
  const busy = locked(`lowtide.data@${ENDPOINT} app.db`, () => (taken(), new Promise((resolve) => (go = resolve)))); // another tab
  await held;
  const out = new Promise((resolve) => tab.session.onChange(({ status }) => status === 'signed_out' && resolve()));
  const leaving = tab.lowtide.signOut({ discard: true });
  await out;
  tab.server.user = { ...tab.server.user, id: 'ben' };
  await tab.session.signIn.anonymous();
  assert.deepEqual([data.emptied, data.connected], [0, 1]);
  go();
  await Promise.all([busy, leaving]);
  assert.deepEqual([data.emptied, data.rows, data.waiting, data.notes.get('owner')], [1, 0, 0, 'ben']);
  assert.equal(data.connected, 2);
  await tab.close();
});

test("a tab that has not heard of another user's sign-in signs nobody else out", async () => {
  // What the tab shows when it signs out: anna; nobody; anna, and it hears of ben in the middle of it.
  for (const [shows, discard] of [['anna', true], ['anna', false], ['nobody', true], ['anna, at first', true]]) {
    const data = disk();
    const server = new Server();
    const store = memoryStore();
    const here = await signedIn(data, server, store);
    const deaf = await signedIn(data, server, store);
    deaf.session.close();
    if (shows === 'nobody') await deaf.session.signOut();
    else await here.session.signOut();
    await here.session.look();
    server.user = { ...server.user, id: 'ben' };
    await here.session.signIn.anonymous();
    await here.lowtide.connect();
    assert.equal(data.notes.get('owner'), 'ben');
    [data.rows, data.waiting] = [3, discard ? 1 : 0]; // what ben has written there
    const { emptied, connected } = data;
    const answer = server.answer.bind(server);
    const left = [];
    server.answer = (path, body, headers) => {
      if (path === '/v1/auth/sign-out') left.push(headers.authorization);
      return answer(path, body);
    };
    if (shows.endsWith('first')) data.leaves = () => deaf.session.look();
    await assert.rejects(deaf.lowtide.signOut({ discard }), { code: 'other_user' }, shows);
    for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
    assert.deepEqual([data.emptied, data.rows, data.waiting], [emptied, 3, discard ? 1 : 0], shows);
    assert.deepEqual([deaf.session.user.id, data.connected], ['ben', connected + 1], `${shows}: the tab is ben's now`);
    assert.ok(!left.includes(`Bearer ${await here.session.token()}`), 'the server hears nothing of ben');
    const kept = new Session({ endpoint: ENDPOINT, store, fetch: fetching(server) });
    assert.equal((await kept.restore()).user?.id, 'ben', shows);
    kept.close();
    // Asked again, it is ben whom the tab shows: the sign-out is his.
    data.leaves = null;
    await deaf.lowtide.signOut({ discard });
    assert.deepEqual([data.emptied, data.rows, data.waiting], [emptied + 1, 0, 0]);
    assert.equal((await here.session.look()).status, 'signed_out');
    await Promise.all([here.close(), deaf.close()]);
  }
});

test('a sign-out that could not be kept leaves everything as it was, and the tab connected', async () => {
  const data = disk();
  const store = memoryStore();
  const tab = await signedIn(data, new Server(), { ...store, set: (...entry) => store.full?.() ?? store.set(...entry) });
  data.rows = 3;
  store.full = () => Promise.reject(new Error('quota'));
  await assert.rejects(tab.lowtide.signOut(), { code: 'storage', retryable: true });
  assert.deepEqual([tab.session.user.id, data.rows, data.emptied, data.connected], ['anna', 3, 0, 2]);
  await tab.close();
});

test('a sign-out is of the same user also where another tab has renewed the tokens, or merged accounts', async () => {
  for (const change of [(one) => one.session.refresh(), (one) => one.session.take(merged(one), 'anna')]) {
    const data = disk();
    const [server, store] = [new Server(), memoryStore()];
    const here = await signedIn(data, server, store);
    const deaf = await signedIn(data, server, store);
    deaf.session.close();
    await change(here);
    data.rows = 3;
    await deaf.lowtide.signOut();
    assert.equal(data.rows, 0);
    assert.equal((await here.session.look()).status, 'signed_out');
    await Promise.all([here.close(), deaf.close()]);
  }
});

function merged({ server }) {
  server.user = { ...server.user, id: 'ben', anonymous: false };
  return server.answer('/v1/auth/anonymous')[1];
}

test("an answer to an old question throws nothing of the present user's away", async () => {
  const data = disk();
  data.notes.set('owner', 'anna');
  data.waiting = 1;
  const identity = { user: 'ben', former: [] };
  const tab = () => new Lowtide(data.open(), { endpoint: ENDPOINT, tokens: { token: async () => 't', identity }, surroundings: still });
  const [one, two] = [tab(), tab()];
  await assert.rejects(one.connect(), { code: 'other_user' });
  await assert.rejects(two.connect(), { code: 'other_user' });
  await two.discardOther();
  assert.deepEqual([data.emptied, data.waiting, data.notes.get('owner'), data.connected], [1, 0, 'ben', 1]);
  data.waiting = 1; // ben writes there, and then presses here
  await one.discardOther();
  assert.deepEqual([data.emptied, data.waiting, data.connected], [1, 1, 2]);
  await Promise.all([one.close(), two.close()]);
});

test('a database that hangs holds up no other one of the same origin', async () => {
  const [stuck, free] = [disk('one.db'), disk('two.db')];
  let go;
  stuck.hangs = new Promise((resolve) => (go = resolve));
  const tab = (data) => {
    data.notes.set('owner', 'anna');
    const tokens = { token: async () => 't', identity: { user: 'ben', former: [] } };
    return new Lowtide(data.open(), { endpoint: ENDPOINT, tokens, surroundings: still });
  };
  const [one, two, same] = [tab(stuck), tab(free), tab(stuck)];
  const [first, second] = [one.connect(), same.connect()];
  await two.connect();
  assert.deepEqual([stuck.emptied, free.emptied, free.connected], [0, 1, 1]);
  go();
  await Promise.all([first, second]);
  assert.equal(stuck.emptied, 1, 'two tabs of one database take turns');
  await Promise.all([one.close(), two.close(), same.close()]);
});

test('an app that is too old hears once in a connection which version is wanted, and where it is', async () => {
  const asked = [];
  const fetch = async (address, { headers }) => {
    asked.push([new URL(address).pathname, headers['x-app-version'], headers.authorization]);
    const problem = { code: 'app_too_old', status: 426, minimum: '2.1.0', store: 'https://store.example' };
    return new Response(JSON.stringify(problem), { status: 426 });
  };
  const db = disk().open();
  let told = () => {};
  db.registerListener = ({ statusChanged }) => {
    told = statusChanged;
    return () => {};
  };
  const tokens = { token: async () => 't', identity: { user: 'anna', former: [] } };
  const options = { endpoint: ENDPOINT, tokens, fetch, appVersion: 'ios/2.0.3', surroundings: still };
  const lowtide = new Lowtide(db, options);
  const heard = [];
  lowtide.on('outdated', (event) => heard.push(event));
  await lowtide.connect();
  const down = (message) => told({ connected: false, downloading: false, downloadError: new Error(message) });
  down('HTTP Service Unavailable: {"code":"busy"}');
  down('HTTP Upgrade Required: {"code":"app_too_old"}');
  down('app_too_old: This version of the app is no longer served. [PSYNC]');
  await new Promise(setImmediate);
  assert.deepEqual(heard, [{ minimum: '2.1.0', store: 'https://store.example' }]);
  assert.deepEqual(asked, [['/v1/sync/conflicts', 'ios/2.0.3', undefined]]);
  await lowtide.connect();
  down('HTTP Upgrade Required: {"code":"app_too_old"}');
  await new Promise(setImmediate);
  assert.equal(heard.length, 2);
  await lowtide.close();
});

test('who closes while the database is being opened is closed, and may open again', async () => {
  const data = disk();
  let watched = 0;
  const surroundings = { ...still, subscribe: () => (watched++, () => watched--) };
  const server = new Server();
  const session = new Session({ endpoint: ENDPOINT, store: memoryStore(), fetch: fetching(server) });
  await session.signIn.anonymous();
  let heard = 0;
  const { onChange } = session;
  session.onChange = (listener) => {
    heard++;
    const stop = onChange.call(session, listener);
    return () => (heard--, stop());
  };
  const lowtide = new Lowtide(data.open(), { tokens: session, surroundings });
  const state = () => [data.connected, data.listeners, watched, heard];
  const opening = lowtide.connect();
  await lowtide.close();
  await opening;
  await new Promise(setImmediate);
  assert.deepEqual(state(), [0, 0, 0, 0]);
  const disconnected = lowtide.connect();
  await lowtide.disconnect();
  await disconnected;
  assert.equal(data.connected, 0);
  // As a page does that is shown twice in a moment.
  const [, , last] = [lowtide.connect(), lowtide.close(), lowtide.connect()];
  await last;
  await new Promise(setImmediate);
  assert.deepEqual(state(), [1, 1, 1, 1]);
  await lowtide.close();
  assert.deepEqual(state(), [1, 0, 0, 0]);
  session.close();
});

test('an opening that was closed, and fails after that, does not close what was opened since', async () => {
  const data = disk();
  const session = new Session({ endpoint: ENDPOINT, store: memoryStore(), fetch: fetching(new Server()) });
  const db = data.open();
  const { execute } = db;
  let fail;
  db.execute = () => ((db.execute = execute), new Promise((_, reject) => (fail = reject)));
  const lowtide = new Lowtide(db, { tokens: session, surroundings: still });
  const first = lowtide.open().catch(({ message }) => message);
  while (!fail) await new Promise(setImmediate);
  await lowtide.close();
  await lowtide.connect(); // begins with the sign-in
  fail(new Error('the disk was busy'));
  assert.equal(await first, 'the disk was busy');
  await session.signIn.anonymous();
  for (let i = 0; i < 50 && !data.connected; i++) await new Promise(setImmediate);
  assert.deepEqual([data.connected, data.listeners], [1, 1]);
  await lowtide.close();
  session.close();
});

test('nothing waits on after it was closed: no flush, no upload, no link', async () => {
  const data = disk();
  let asked = 0;
  const fetch = (address) => {
    asked += address.endsWith('/batches') || address.endsWith('/finish');
    return new Promise(() => {}); // and no signal is heeded
  };
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = timers();
  const session = new Session({ endpoint: ENDPOINT, store: memoryStore(), fetch });
  const tokens = { token: async () => 't', identity: { user: 'anna', former: [] } };
  const db = Object.assign(data.open(), {
    getClientId: async () => 'd',
    getAll: async () => [],
    async *getCrudTransactions() {
      yield { crud: [{ clientId: 1, id: 'r', op: 'PUT', table: 't', opData: {} }], complete: () => assert.fail('it was completed') };
    }
  });
  const lowtide = new Lowtide(db, { endpoint: ENDPOINT, tokens, fetch, surroundings: still });
  await lowtide.connect();
  data.waiting = 1;
  const flushed = lowtide.flush();
  const linked = session.signIn.waitForLink({ flow_id: 'f' }).catch(({ code }) => code);
  while (asked < 2) await new Promise(setImmediate);
  const sent = lowtide.connector.uploadData(db).catch(({ code }) => code);
  assert.ok(timers() > before);
  await lowtide.close();
  session.close();
  assert.deepEqual([await flushed, await linked, await sent], [false, 'aborted', 'aborted']);
  assert.equal(timers(), before);
});

test('who signs out while the network hangs is signed out soon, and the next user waits for nothing of it', async () => {
  const data = disk();
  const server = new Server();
  let hangs = null;
  const sent = [];
  const good = fetching(server);
  const fetch = async (address, init) => {
    const path = new URL(address).pathname;
    sent.push(path);
    if (hangs) await new Promise(() => {}); // and no signal is heeded
    if (path !== '/v1/sync/batches') return good(address, init);
    return Response.json({ last: 1, results: [{ n: 1, status: 'applied' }] });
  };
  const session = new Session({ endpoint: ENDPOINT, store: memoryStore(), fetch });
  await session.signIn.anonymous();
  let completed = 0;
  const db = Object.assign(data.open(), {
    getClientId: async () => 'd',
    getAll: async () => [],
    async *getCrudTransactions() {
      yield { crud: [{ clientId: 1, id: 'r', op: 'PUT', table: 't', opData: {} }], complete: async () => completed++ };
    }
  });
  const lowtide = new Lowtide(db, { tokens: session, fetch, surroundings: still });
  await lowtide.connect();
  data.waiting = 1;
  hangs = true;
  const upload = lowtide.connector.uploadData(db).catch(({ code }) => code);
  while (!sent.includes('/v1/sync/batches')) await new Promise(setImmediate);
  const { now } = Date;
  const { setTimeout: real } = globalThis;
  globalThis.setTimeout = (work, wait, ...more) => real(work, wait === 5_000 ? 50 : wait, ...more);
  Date.now = () => now() + 60 * 86_400_000; // the token is of 60 days ago, too: it is to be renewed before anything
  try {
    await lowtide.signOut({ discard: true });
  } finally {
    globalThis.setTimeout = real;
  }
  assert.deepEqual([session.state.status, data.emptied, completed, await upload], ['signed_out', 1, 0, 'aborted']);
  assert.equal(sent.at(-1), '/v1/auth/token/refresh');
  hangs = false;
  try {
    server.user = { ...server.user, id: 'ben' };
    await session.signIn.anonymous();
    await lowtide.connect();
    await lowtide.connector.uploadData(db);
    assert.deepEqual([completed, session.user.id, data.notes.get('owner')], [1, 'ben', 'ben']);
    // Nothing of what hung comes back: who signed out stays so.
    assert.equal((await session.look()).user.id, 'ben');
  } finally {
    Date.now = now;
    await lowtide.close();
    session.close();
  }
});

test('a phone that was off for sixty days, or whose clock was wrong by as much, goes on, and keeps what it wrote', async () => {
  const { now } = Date;
  const day = 86_400_000;
  const data = disk();
  const server = new Server();
  const store = memoryStore();
  const first = await signedIn(data, server, store);
  [data.rows, data.waiting] = [3, 2];
  await first.close();
  try {
    for (const days of [60, -60, 3_650, 0]) {
      Date.now = () => now() + days * day;
      let away = true;
      const session = new Session({ endpoint: ENDPOINT, store, fetch: fetching(server, () => (away ? 'request' : null)) });
      const lowtide = new Lowtide(data.open(), { tokens: session, surroundings: still });
      await lowtide.connect();
      assert.deepEqual([session.state.status, session.user.id, await lowtide.waiting()], ['authenticated_offline', 'anna', 2]);
      away = false;
      const token = await session.token();
      const renewed = await session.token(token); // where this clock took it for good, the server says that it is not
      assert.ok(renewed && renewed !== token);
      assert.deepEqual([session.state.status, data.emptied, data.rows], ['authenticated', 0, 3]);
      await lowtide.close();
      session.close();
    }
    // After more than that the server ends the session. What was written waits for the same user.
    server.over = { reason: 'expired', wipe: false };
    const session = new Session({ endpoint: ENDPOINT, store, fetch: fetching(server) });
    const lowtide = new Lowtide(data.open(), { tokens: session, surroundings: still });
    await lowtide.connect();
    await session.refresh();
    assert.deepEqual([session.state.status, data.emptied, await lowtide.waiting()], ['signed_out', 0, 2]);
    await session.signIn.anonymous();
    await lowtide.connect();
    assert.deepEqual([session.user.id, data.emptied, data.rows, data.waiting], ['anna', 0, 3, 2]);
    await lowtide.close();
    session.close();
  } finally {
    Date.now = now;
  }
});
