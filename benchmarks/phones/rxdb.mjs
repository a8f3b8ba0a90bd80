// A phone with RxDB in memory and the client of its own server. Runs where RxDB is installed.

import EventSource from 'eventsource';
import { createRxDatabase } from 'rxdb';
import { replicateServer } from 'rxdb-server/plugins/replication-server';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { serve, told } from './program.mjs';
import { SCHEMA } from './rxdb_schema.mjs';

const db = await createRxDatabase({ name: told.name, storage: getRxStorageMemory(), multiInstance: false });
const { task } = await db.addCollections({ task: { schema: SCHEMA } });
let state = null;

await serve({
  online: () => {
    const url = `${told.url}/task/0`;
    const options = { collection: task, replicationIdentifier: 'tasks', url, live: true, eventSource: EventSource };
    state = replicateServer({ ...options, push: {}, pull: {} });
    state.error$.subscribe((error) => console.error(String(error)));
  },
  offline: () => state.cancel(),
  write: async (ids, title) => {
    const docs = await task.findByIds(ids).exec();
    await task.bulkUpsert([...docs.values()].map((doc) => ({ ...doc.toMutableJSON(), title })));
  },
  count: () => task.count().exec(),
  titled: async (title) => (await task.find().exec()).filter((doc) => doc.title === title).length
});
