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
