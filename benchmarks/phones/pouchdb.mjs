// A phone with PouchDB in memory. Runs where PouchDB is installed.

import PouchDB from 'pouchdb-core';
import http from 'pouchdb-adapter-http';
import memory from 'pouchdb-adapter-memory';
import replication from 'pouchdb-replication';
import { serve, told } from './program.mjs';

PouchDB.plugin(memory).plugin(http).plugin(replication);
const db = new PouchDB(told.name, { adapter: 'memory' });
let sync = null;

const all = async () => (await db.allDocs({ include_docs: true })).rows.map((row) => row.doc);

await serve({
  online: () => {
    sync = db.sync(`${told.url}/tasks`, { live: true, retry: true });
    sync.on('error', (error) => console.error(error));
  },
  offline: () =>
    new Promise((resolve) => {
      sync.on('complete', resolve).on('error', resolve);
      sync.cancel();
    }),
  write: async (ids, title) => {
    const { rows } = await db.allDocs({ keys: ids, include_docs: true });
    await db.bulkDocs(rows.map((row) => ({ ...row.doc, title })));
  },
  count: async () => (await db.info()).doc_count,
  titled: async (title) => (await all()).filter((doc) => doc.title === title).length
});
