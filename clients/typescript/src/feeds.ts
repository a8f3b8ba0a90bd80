// What became of changes: those that were refused, and values that lost a conflict.

import type { CommonPowerSyncDatabase, Transaction } from '@powersync/common';
import { Notes } from './batch.js';
import type { LowtideConnector } from './connector.js';
import { LowtideError } from './errors.js';

/** A change that the server refused, with its content. */
export interface Rejection {
  readonly id: string;
  /** When it was refused: milliseconds since 1970. */
  readonly at: number;
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly op: 'put' | 'patch' | 'delete' | (string & {});
  readonly model: string;
  readonly record: string;
  /** What was to be written; null for a deletion. */
  readonly data: Readonly<Record<string, unknown>> | null;
  readonly base: Readonly<Record<string, unknown>> | null;
  readonly metadata: string | null;
}

/** A value that lost against a later one. Times are milliseconds since 1970. */
export interface Conflict {
  readonly id: string;
  readonly model: string;
  readonly record: string;
  /** Empty: a deletion was undone by an edit. */
  readonly field: string;
  readonly lost: unknown;
  readonly lost_by: string;
  readonly lost_at: number;
  readonly won: unknown;
  readonly won_by: string;
  readonly won_at: number;
  readonly reason: string;
  readonly at: number;
  readonly restored_at: number | null;
}

type Row = { [name in keyof Rejection]: string | null } & { record_id: string };
const TABLE = 'lowtide_rejections';

export class Rejections {
  readonly #db: CommonPowerSyncDatabase;

  constructor(db: CommonPowerSyncDatabase) {
    this.#db = db;
  }

  /** All that were not dismissed, the oldest first. */
  async list(): Promise<readonly Rejection[]> {
    return (await this.#db.getAll<Row>(`SELECT * FROM ${TABLE} ORDER BY at, n`)).map(rejection);
  }

  /** The list, and again whenever it changes, until `signal` ends it. */
  async *watch(signal?: AbortSignal): AsyncGenerator<readonly Rejection[], void> {
    const options = { tables: [TABLE], triggerImmediate: true, ...(signal && { signal }) };
    for await (const _ of this.#db.onChange(options)) yield await this.list();
  }

  /** It is settled: forget it, here and on the server. */
  async dismiss(...ids: string[]): Promise<void> {
    await this.#db.execute(`DELETE FROM ${TABLE} WHERE id IN (${ids.map(() => '?').join(', ')})`, ids);
  }

  /**
   * Make the same change once more, with what is different in `changed`, and dismiss the refusal: in one transaction. It
   * meets what others did meanwhile as the first try would have: an increment is added to theirs, an element of a set
   * put beside theirs. Until the server has answered, the record shows here what was refused. Throws `not_retryable`,
   * and the refusal stays, where nothing would be sent.
   */
  async retry(id: string, changed: Readonly<Record<string, unknown>> = {}): Promise<void> {
    await new Notes(this.#db).setUp();
    await this.#db.writeTransaction(async (tx) => {
      const row = await tx.getOptional<Row>(`SELECT * FROM ${TABLE} WHERE id = ?`, [id]);
      if (!row) throw new LowtideError('not_found', 'There is no such refusal.', { status: 404 });
      const known = this.#db.schema.tables.find((table) => table.name === row.model);
      const refused = rejection(row);
      if (!known || !['put', 'patch', 'delete'].includes(refused.op) || (refused.op !== 'delete' && !refused.data)) {
        throw new LowtideError('not_retryable', 'This change cannot be made once more by itself.');
      }
      await write(tx, known.viewName, refused, changed);
      await tx.execute(`DELETE FROM ${TABLE} WHERE id = ?`, [id]);
    });
  }
}

async function write(tx: Transaction, table: string, refused: Rejection, changed: object): Promise<void> {
  const name = quoted(table);
  if (refused.op === 'delete') {
    await tx.execute(`DELETE FROM ${name} WHERE id = ?`, [refused.record]);
    return;
  }
  const data = Object.entries({ ...refused.data, ...changed }).map(([field, value]) => [field, scalar(value)] as const);
  const fields = data.map(([field]) => quoted(field));
  const values = data.map(([, value]) => value);
  if (refused.metadata !== null) {
    fields.push('_metadata');
    values.push(refused.metadata);
  }
  const there = await tx.getOptional(`SELECT 1 FROM ${name} WHERE id = ?`, [refused.record]);
  if (there) {
    const sets = fields.map((field) => `${field} = ?`).join(', ');
    const update = () => tx.execute(`UPDATE ${name} SET ${sets} WHERE id = ?`, [...values, refused.record]);
    // What was to be created replaced nothing. Of a patch without a base only the SDK knows what it replaces.
    const nothing = refused.op === 'put' ? Object.fromEntries(data.map(([field]) => [field, null])) : null;
    const base = refused.base ?? nothing;
    const sent = await Notes.as(tx, base && { data: Object.fromEntries(data), base }, update);
    if (!sent) throw new LowtideError('not_retryable', 'The record is so already: nothing would be sent.');
  } else if (refused.op === 'put') {
    const sql = `INSERT INTO ${name}(id, ${fields.join(', ')}) VALUES (?${', ?'.repeat(fields.length)})`;
    await tx.execute(sql, [refused.record, ...values]);
  } else {
    throw new LowtideError('not_retryable', 'The record that was to be changed is not there any more.');
  }
}

export class Conflicts {
  readonly #connector: LowtideConnector;

  constructor(connector: LowtideConnector) {
    this.#connector = connector;
  }

  /** The values of a record that lost, the newest first, page by page. Needs the network. */
  async *of(model: string, id: string): AsyncGenerator<Conflict, void> {
    for (let before = ''; ; ) {
      const query = Object.entries({ model, id, limit: '50', ...(before && { before }) })
        .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
        .join('&');
      const path = `/v1/sync/conflicts?${query}`;
      const { conflicts } = await this.#connector.request<{ conflicts: Conflict[] }>('GET', path, { holds: 'conflicts' });
      yield* conflicts;
      if (conflicts.length < 50) return;
      before = conflicts.at(-1)!.id;
    }
  }

  /** Write the lost value back, as the user: it comes to every device like any change. */
  async restore(id: string): Promise<Conflict> {
    const sending = { body: {}, attempts: 3, holds: 'lost_at' };
    return this.#connector.request('POST', `/v1/sync/conflicts/${encodeURIComponent(id)}/restore`, sending);
  }
}

function rejection(row: Row): Rejection {
  const json = (text: string | null) => JSON.parse(text ?? 'null') as Readonly<Record<string, unknown>> | null;
  return {
    id: row.id ?? '',
    at: Date.parse(row.at ?? ''),
    code: row.code ?? '',
    message: row.message ?? '',
    hint: row.hint ?? '',
    op: row.op ?? '',
    model: row.model ?? '',
    record: row.record_id,
    data: json(row.data),
    base: json(row.base),
    metadata: row.metadata
  };
}

function scalar(value: unknown): unknown {
  if (typeof value === 'boolean') return Number(value);
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : value;
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
