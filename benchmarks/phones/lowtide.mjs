// A phone with the client SDK, unmodified, and @lowtide/client.

import { join } from 'node:path';
import { Lowtide } from '@lowtide/client';
import { column, Schema, Table } from '@powersync/common';
import { PowerSyncDatabase } from '@powersync/node';
import { getGlobalDispatcher } from 'undici';
import { serve, told } from './program.mjs';

const task = new Table(
  { team_id: column.text, title: column.text, notes: column.text },
  { trackPrevious: { onlyWhenChanged: true }, trackMetadata: true }
);
const db = new PowerSyncDatabase({
  schema: new Schema({ task }),
  database: { dbFilename: join(told.folder, `${told.name}.db`) },
  // This SDK opens a connection for each request otherwise; phones and browsers keep theirs.
  remoteOptions: { dispatcher: getGlobalDispatcher() }
});
const lowtide = new Lowtide(db, { endpoint: told.url, tokens: async () => told.token });
await lowtide.open();

await serve({
  online: () => lowtide.connect(),
  offline: () => lowtide.disconnect(),
  write: (ids, title) =>
    db.writeTransaction(async (tx) => {
      for (const id of ids) await tx.execute('UPDATE task SET title = ? WHERE id = ?', [title, id]);
    }),
  count: async () => (await db.get('SELECT count(*) AS n FROM task')).n,
  titled: async (title) => (await db.get('SELECT count(*) AS n FROM task WHERE title = ?', [title])).n
});
