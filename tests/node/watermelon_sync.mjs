import { hasUnsyncedChanges, synchronize } from '@nozbe/watermelondb/sync/index.js';
import { fetchLocalChanges } from '@nozbe/watermelondb/sync/impl/index.js';

/** Bring `database` and the server together. `clientId`: one for each database, kept as long as it is. */
export async function sync(database, { url, clientId, getToken }) {
  const { tables, version } = database.schema;
  const sent = new Map(); // what was pushed before the pull
  let since;
  const ask = async (what, body) => {
    const answer = await fetch(`${url}/v1/bridges/watermelondb/${what}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${await getToken()}`, 'content-type': 'application/json' },
      body: JSON.stringify({ client_id: clientId, schema_version: version, last_pulled_at: since, ...body })
    });
    if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
    return answer.json();
  };
  const based = (table, { lowtide_op, ...row }) => {
    if (!tables[table].columns.lowtide_base) return row;
    const base = Object.entries(row).map(([column, value]) => [column, [lowtide_op, value]]);
    return { ...row, lowtide_base: JSON.stringify(Object.fromEntries(base)) };
  };
  await synchronize({
    database,
    sendCreatedAsUpdated: true,
    migrationsEnabledAtVersion: database.adapter.migrations && 1,
    pullChanges: async ({ lastPulledAt, migration }) => {
      since = lastPulledAt;
      if (await hasUnsyncedChanges({ database })) {
        // First what the user did: a pull would drop edits of records that are gone.
        const { changes } = await fetchLocalChanges(database);
        await ask('push', { changes });
        for (const [table, { created, updated }] of Object.entries(changes))
          for (const row of [...created, ...updated]) sent.set(`${table}/${row.id}`, row);
      }
      const rows = new Map(Object.keys(tables).map((table) => [table, new Map()]));
      let page = {};
      do {
        page = await ask('pull', { tables: Object.keys(tables), migration, next: page.next });
        for (const [table, { updated, deleted }] of Object.entries(page.changes)) {
          if (page.restart) rows.get(table).clear();
          for (const row of updated) rows.get(table).set(row.id, based(table, row));
          for (const id of deleted) rows.get(table).set(id, null);
        }
      } while (page.next);
      const changes = {};
      for (const table of Object.keys(page.changes)) {
        const all = [...rows.get(table)];
        const updated = all.flatMap(([, row]) => (row ? [row] : []));
        changes[table] = { created: [], updated, deleted: all.flatMap(([id, row]) => (row ? [] : [id])) };
      }
      const { timestamp, experimentalStrategy } = page;
      return { changes, timestamp, ...(experimentalStrategy && { experimentalStrategy }) };
    },
    pushChanges: ({ changes }) => ask('push', { changes }),
    conflictResolver: (table, local, remote, resolved) => {
      if (!remote.lowtide_base) return local._status === 'created' ? local : resolved;
      const was = sent.get(`${table}/${local.id}`) ?? {};
      const base = JSON.parse(remote.lowtide_base);
      const before = JSON.parse(local.lowtide_base || '{}');
      const changed = local._status === 'created' ? Object.keys(tables[table].columns) : local._changed.split(',');
      for (const column of changed.filter((name) => name && name !== 'lowtide_base')) {
        // What was pushed and not changed since is as the server merged it; the rest goes on from its base.
        const own = was[column] !== local[column];
        resolved[column] = own ? local[column] : remote[column];
        if (own) base[column] = before[column];
      }
      return { ...resolved, lowtide_base: JSON.stringify(base) };
    }
  });
}
