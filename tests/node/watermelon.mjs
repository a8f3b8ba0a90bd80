// An app on WatermelonDB, unmodified: its tables, its phones, and the sync of docs/bridges.md.

import { createRequire } from 'node:module';
import { ask, server, uuid } from './harness.mjs';
import { sync } from './watermelon_sync.mjs';

const require = createRequire(import.meta.url);
const { Database, Model, Q, appSchema, tableSchema } = require('@nozbe/watermelondb');
const LokiJSAdapter = require('@nozbe/watermelondb/adapters/lokijs').default;
require('@nozbe/watermelondb/utils/common/logger').default.silence();

export { Q };

const text = (name) => ({ name, type: 'string' });
const optional = (column) => ({ ...column, isOptional: true });
const number = (name) => ({ name, type: 'number' });
const base = optional(text('lowtide_base'));

const TABLES = {
  membership: [text('user_id'), text('team_id')],
  task: [
    text('team_id'),
    text('title'),
    text('notes'),
    number('votes'),
    text('tags'),
    text('state'),
    optional(number('estimate')),
    optional(number('best')),
    base
  ],
  card: [text('team_id'), text('body'), base],
  note: [text('user_id'), text('body')],
  handle: [text('name'), base],
  alarm: [text('text')],
  lowtide_rejections: ['code', 'model', 'record_id', 'data'].map((name) => optional(text(name)))
};

const classes = (tables) =>
  Object.keys(tables).map((name) => {
    class Table extends Model {}
    Table.table = name;
    return Table;
  });

/** A phone of `user`. `lose`: how many answers to pushes are lost on the way. */
export async function melon(user, { name = user, tables = TABLES } = {}) {
  const schema = appSchema({
    version: 1,
    tables: Object.entries(tables).map(([name, columns]) => tableSchema({ name, columns }))
  });
  const adapter = new LokiJSAdapter({ dbName: `${name}-${uuid()}`, schema, useWebWorker: false, useIncrementalIndexedDB: false });
  const database = new Database({ adapter, modelClasses: classes(tables) });
  const self = { name, user, database, lose: 0, clientId: uuid() };
  self.sync = async () => {
    const real = globalThis.fetch;
    globalThis.fetch = async (address, options) => {
      const answer = await real(address, options);
      if (String(address).endsWith('/push') && self.lose > 0) {
        self.lose--;
        await answer.arrayBuffer();
        throw new TypeError('fetch failed');
      }
      return answer;
    };
    try {
      const url = JSON.parse(process.env.SCENARIO).url;
      await sync(database, { url, clientId: self.clientId, getToken: () => ask('token', { user }) });
    } finally {
      globalThis.fetch = real;
    }
  };
  self.make = (table, id, values) =>
    database.write(() =>
      database.get(table).create((record) => {
        record._raw.id = id;
        for (const [column, value] of Object.entries(values)) record._setRaw(column, value);
      })
    );
  self.change = (table, id, values) =>
    database.write(async () => {
      const record = await database.get(table).find(id);
      await record.update(() => {
        for (const [column, value] of Object.entries(values)) record._setRaw(column, value);
      });
    });
  self.remove = (table, id) => database.write(async () => (await database.get(table).find(id)).markAsDeleted());
  /** id -> its columns, of those that the app sees. */
  self.rows = async (table) => {
    const found = await database.get(table).query().fetch();
    const shown = found.map(({ _raw: { id, _status, _changed, lowtide_base, ...columns } }) => [id, columns]);
    return Object.fromEntries(shown.sort(([a], [b]) => (a < b ? -1 : 1)));
  };
  self.dirty = async (table) => (await database.get(table).query(Q.where('_status', Q.notEq('synced'))).fetch()).length;
  return self;
}

/** Bring all phones up to date: each pushes, then each pulls what the others pushed. */
export async function settle(...phones) {
  for (let round = 0; round < 3; round++) for (const phone of phones) await phone.sync();
}

export { server };
