// RxDB's own server, in memory, as its documentation begins: node rxdb_server.mjs PORT TASKS.json

import { readFileSync } from 'node:fs';
import { createRxDatabase } from 'rxdb';
import { RxServerAdapterExpress } from 'rxdb-server/plugins/adapter-express';
import { createRxServer } from 'rxdb-server/plugins/server';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { SCHEMA } from './rxdb_schema.mjs';

const [port, tasks] = process.argv.slice(2);
const db = await createRxDatabase({ name: 'server', storage: getRxStorageMemory(), multiInstance: false });
const { task } = await db.addCollections({ task: { schema: SCHEMA } });
await task.bulkInsert(JSON.parse(readFileSync(tasks, 'utf8')));
const authHandler = () => ({ data: {}, validUntil: Date.now() + 1e9 });
const options = { database: db, adapter: RxServerAdapterExpress, port: Number(port), hostname: '127.0.0.1' };
const server = await createRxServer({ ...options, authHandler });
server.addReplicationEndpoint({ name: 'task', collection: task });
server.serverApp.get('/', (_, response) => response.send('up'));
await server.start();
