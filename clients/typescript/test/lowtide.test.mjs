// Whose a database is: several tabs, several users, and a page that is gone in the middle of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lowtide } from '../dist/lowtide.js';
import { Session } from '../dist/session.js';
import { memoryStore } from '../dist/storage.js';
import { fetching, Server } from './server.mjs';

/** The database of one origin, with rows and a queue, opened by each tab. */
function disk() {
  const self = { notes: new Map(), rows: 0, waiting: 0, emptied: 0, fails: null };
  self.open = () => ({
    connected: false,
    connect: async () => {},
    disconnect: async () => {},
    async disconnectAndClear() {
      await new Promise(setImmediate);
      if (self.fails) throw self.fails;
      self.emptied++;
      self.rows = self.waiting = 0;
    },
    get: async () => ({ n: self.waiting }),
    getOptional: async (_, [name]) => (self.notes.has(name) ? { value: self.notes.get(name) } : null),
    execute: async (sql, [name, value] = []) => void (sql.startsWith('INSERT') && self.notes.set(name, value)),
    registerListener: () => () => {}
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
