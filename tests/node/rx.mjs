// An app on RxDB, unmodified: its collections, its phones, and the replication of docs/bridges.md.

import { createRxDatabase, addRxPlugin } from 'rxdb';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { RxDBUpdatePlugin } from 'rxdb/plugins/update';
import { ask, sleep, url, uuid } from './harness.mjs';
import { replicate } from './rxdb_sync.mjs';

addRxPlugin(RxDBUpdatePlugin);

const text = { type: 'string' };
const number = { type: 'number' };
const list = { type: 'array', items: { type: 'string' } };
const schema = (properties) => ({
  version: 0,
  primaryKey: 'id',
  type: 'object',
  properties: { id: { type: 'string', maxLength: 128 }, lowtide_version: text, ...properties },
  required: ['id']
});

const SCHEMAS = {
  task: schema({
    team_id: text,
    title: text,
    notes: text,
    votes: number,
    tags: list,
    state: text,
    estimate: number,
    best: number,
    approved: { type: 'boolean' }
  }),
  card: schema({ team_id: text, body: text }),
  lowtide_rejections: schema({ code: text, model: text, record_id: text })
};

/** A phone of `user`, with the collections `names`. `lose`: how many answers to pushes are lost on the way. */
export async function rx(user, { names = ['task'], online = true } = {}) {
  const db = await createRxDatabase({ name: `rx${uuid()}`, storage: getRxStorageMemory(), multiInstance: false });
  await db.addCollections(Object.fromEntries(names.map((name) => [name, { schema: SCHEMAS[name] }])));
  const self = { user, db, clientId: uuid(), lose: 0, states: [], errors: [] };
  self.online = () => {
    const getToken = () => ask('token', { user });
    self.states = names.map((name) =>
      replicate(db[name], { url, clientId: self.clientId, getToken, retryTime: 50 })
    );
    for (const state of self.states) state.error$.subscribe((error) => self.errors.push(error));
  };
  self.offline = async () => {
    await Promise.all(self.states.map((state) => state.cancel()));
    self.states = [];
  };
  self.synced = async () => {
    await Promise.all(self.states.map((state) => state.awaitInitialReplication()));
    for (const state of self.states) {
      state.reSync();
      await state.awaitInSync();
    }
  };
  self.make = (name, id, values) => db[name].insert({ id, ...values });
  self.change = async (name, id, values) => (await db[name].findOne(id).exec(true)).incrementalPatch(values);
  self.remove = async (name, id) => (await db[name].findOne(id).exec(true)).incrementalRemove();
  /** id -> its fields, without the version. */
  self.rows = async (name) => {
    const found = await db[name].find().exec();
    const shown = found.map((one) => one.toJSON()).map(({ id, lowtide_version, ...fields }) => [id, fields]);
    return Object.fromEntries(shown.sort(([a], [b]) => (a < b ? -1 : 1)));
  };
  if (online) self.online();
  return self;
}

/** Make the network lose the next answers to `phone`'s pushes. */
const real = globalThis.fetch;
const phones = new Map();
export const lossy = (phone) => phones.set(phone.clientId, phone);
globalThis.fetch = async (address, options) => {
  const answer = await real(address, options);
  const phone = phones.get(options?.headers?.['x-lowtide-client']);
  if (phone && phone.lose > 0 && String(address).endsWith('/push')) {
    phone.lose--;
    await answer.arrayBuffer();
    throw new TypeError('fetch failed');
  }
  return answer;
};

/** Wait until `what()` holds. */
export async function eventually(what) {
  const end = Date.now() + 20_000;
  while (!(await what())) {
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await sleep(10);
  }
}
