// The device's queue as numbered batches: what the server reads.

import type { CommonPowerSyncDatabase, CrudEntry, CrudTransaction, Transaction } from '@powersync/common';

export const MAX_MUTATIONS = 5_000; // in one batch
const MAX_BYTES = 15 * 1024 * 1024; // in one batch

// The SDK's queue does not say when a change was made; these triggers do.
const SETUP = [
  `CREATE TABLE IF NOT EXISTS lowtide_stamp(crud_id INTEGER PRIMARY KEY, at INTEGER NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS lowtide_upload(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_insert AFTER INSERT ON ps_crud BEGIN
     INSERT OR REPLACE INTO lowtide_stamp VALUES (NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
   END`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_delete AFTER DELETE ON ps_crud BEGIN
     DELETE FROM lowtide_stamp WHERE crud_id = OLD.id;
   END`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_change_delete AFTER DELETE ON ps_crud BEGIN
     DELETE FROM lowtide_upload WHERE key = 'change:' || OLD.id;
   END`
];

/** What a change is sent as, in place of what the SDK has noted of it. */
export interface Change {
  readonly data: Readonly<Record<string, unknown>>;
  readonly base: Readonly<Record<string, unknown>>;
}

/** What this package remembers in the app's database, by name. */
export class Notes {
  constructor(readonly db: CommonPowerSyncDatabase) {}

  /** Make the tables; harmless if they are there. */
  async setUp(): Promise<void> {
    for (const sql of SETUP) await this.db.execute(sql);
  }

  async get(name: string): Promise<string | null> {
    const sql = 'SELECT value FROM lowtide_upload WHERE key = ?';
    return (await this.db.getOptional<{ value: string }>(sql, [name]))?.value ?? null;
  }

  async set(name: string, value: string): Promise<void> {
    await this.db.execute('INSERT OR REPLACE INTO lowtide_upload VALUES (?, ?)', [name, value]);
  }

  /** Run `write`, which changes one row, in `tx`: it is sent as `change`, if one is given. Is it sent at all? */
  static async as(tx: Transaction, change: Change | null, write: () => Promise<unknown>): Promise<boolean> {
    const latest = async () => (await tx.get<{ n: number }>('SELECT coalesce(max(id), 0) AS n FROM ps_crud')).n;
    const before = await latest();
    await write();
    const n = await latest();
    const sql = 'INSERT OR REPLACE INTO lowtide_upload VALUES (?, ?)';
    if (n > before && change) await tx.execute(sql, [`change:${n}`, JSON.stringify(change)]);
    return n > before;
  }

  /** The changes of which this was noted, by their numbers. */
  async changes(): Promise<ReadonlyMap<number, Change>> {
    const sql = `SELECT key, value FROM lowtide_upload WHERE key GLOB 'change:*'`;
    const rows = await this.db.getAll<{ key: string; value: string }>(sql);
    return new Map(rows.map(({ key, value }) => [Number(key.slice('change:'.length)), JSON.parse(value) as Change]));
  }

  /** How many changes wait to be sent. */
  async waiting(): Promise<number> {
    return (await this.db.get<{ n: number }>('SELECT count(*) AS n FROM ps_crud')).n;
  }
}

/** A transaction that the server could not read, and how often it could not. */
export interface Spoilt {
  readonly first: number;
  readonly times: number;
}

export interface Batch {
  readonly body: object;
  /** How many transactions. */
  readonly count: number;
  /** What they take as JSON. */
  readonly bytes: number;
  /** The first and the last number. */
  readonly first: number;
  readonly last: number;
  /** What each number is of. */
  readonly entries: ReadonlyMap<number, CrudEntry>;
  /** Take what was sent out of the queue. */
  complete(): Promise<void>;
}

/** As many whole transactions as go into one request, in order, `most` of them; null when none waits. */
export async function nextBatch(notes: Notes, most: number, bad: Spoilt): Promise<Batch | null> {
  const { db } = notes;
  const lineage = (await notes.get('lineage')) ?? undefined;
  const transactions: object[] = [];
  const changes = new Map<number, Mutation>();
  const entries = new Map<number, CrudEntry>();
  let [first, mutations, bytes] = [0, 0, 0];
  let last: CrudTransaction | null = null;
  for await (const transaction of db.getCrudTransactions()) {
    const { crud } = transaction;
    const spoilt = bad.first === crud[0]!.clientId ? bad.times : 0;
    const written = crud.map(spoilt > 0 ? unreadable : mutation);
    let sent: object = { mutations: written };
    let size = bytesOf(JSON.stringify(sent));
    if (size > MAX_BYTES || crud.length > MAX_MUTATIONS || spoilt > 1) {
      sent = { oversized: { n: crud.at(-1)!.clientId, count: crud.length, bytes: size } };
      size = 0;
    }
    mutations += crud.length;
    const full = mutations > MAX_MUTATIONS || bytes + size > MAX_BYTES || transactions.length >= most;
    if (full && transactions.length > 0) break;
    bytes += size;
    transactions.push(sent);
    for (const entry of crud) entries.set(entry.clientId, entry);
    if (spoilt === 0) for (const one of written) changes.set(one.n, one);
    first ||= crud[0]!.clientId;
    last = transaction;
  }
  if (!last) return null;
  // Only now: a change and what is noted of it are written together, so whatever was read above has its time. One that
  // was written after an earlier look would be sent without, and be another change when it is sent again.
  const stamps = await db.getAll<{ crud_id: number; at: number }>(
    'SELECT crud_id, at FROM lowtide_stamp WHERE crud_id BETWEEN ? AND ?',
    [first, last.crud.at(-1)!.clientId]
  );
  for (const { crud_id, at } of stamps) {
    const change = changes.get(crud_id);
    if (change) change.at = at;
  }
  for (const [n, { data, base }] of await notes.changes()) {
    const change = changes.get(n);
    if (change) Object.assign(change, { data, base: { ...change.base, ...base } });
  }
  const complete = last.complete;
  return {
    body: { client_id: await db.getClientId(), lineage, sent_at: Date.now(), transactions },
    count: transactions.length,
    bytes,
    first,
    last: last.crud.at(-1)!.clientId,
    entries,
    complete: () => complete()
  };
}

/**
 * The database was copied, or put back: its numbers have meant something else before. What it held then may have
 * been uploaded by the other copy, up to `known`, and is not sent again; the rest goes on under a new name.
 */
export async function beginLineage(notes: Notes, known: number): Promise<void> {
  let applied: CrudTransaction | null = null;
  for await (const transaction of notes.db.getCrudTransactions()) {
    if (transaction.crud.at(-1)!.clientId > known) break;
    applied = transaction;
  }
  await applied?.complete();
  const sql = `INSERT OR REPLACE INTO lowtide_upload VALUES ('lineage', lower(hex(randomblob(16))))`;
  await notes.db.execute(sql);
}

interface Mutation {
  readonly n: number;
  readonly base?: object | undefined;
  at?: number;
}

/** A change as the server reads it: what was written, and what it replaced. When is added later. */
function mutation(entry: CrudEntry): Mutation {
  return {
    n: entry.clientId,
    op: entry.op.toLowerCase(),
    model: entry.table,
    id: entry.id,
    data: entry.opData,
    base: entry.previousValues,
    metadata: entry.metadata
  } as Mutation;
}

/**
 * A change that the server cannot read as it is, such as a text with half a surrogate pair. As one text it is
 * refused for certain, and comes back as a rejection: nothing is lost, and nothing waits behind it.
 */
function unreadable(entry: CrudEntry): Mutation {
  const id = entry.id.replaceAll('\0', '\ufffd');
  return { n: entry.clientId, op: entry.op.toLowerCase(), model: entry.table, id, data: JSON.stringify(entry) } as Mutation;
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
