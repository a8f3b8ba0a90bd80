// Functions of the server: called at once, or as a command that waits for the network.

import type { CommonPowerSyncDatabase } from '@powersync/common';
import type { LowtideConnector } from './connector.js';
import { LowtideError } from './errors.js';
import { until } from './http.js';

/**
 * An app's functions, for types: the arguments of each by its name, as `lowtide client typescript` writes them. One that
 * is written `{ args: {...}; result: ... }` has a typed result, too.
 */
export type AnyFunctions = { readonly [name: string]: Readonly<Record<string, unknown>> };
export type ArgsOf<Functions, Name extends keyof Functions> = Functions[Name] extends { args: infer Args; result: unknown }
  ? Args
  : Functions[Name];
export type ResultOf<Functions, Name extends keyof Functions> = Functions[Name] extends { args: unknown; result: infer Result }
  ? Result
  : unknown;

export type CommandStatus =
  | 'waiting' // on this device
  | 'pending' // the server has it
  | 'done'
  | 'failed';

interface Row {
  readonly id: string;
  readonly name: string;
  readonly args: string | null;
  readonly status: string | null;
  readonly result: string | null;
  readonly error: string | null;
}

const ATTEMPTS = 3; // of a call whose answer is lost: it carries a key, so that it is done once
const COMMANDS = 'lowtide_commands';
const REJECTIONS = 'lowtide_rejections';

/** A call that was made without asking for the network. It runs once, also if the app is closed before. */
export class Command<Result = unknown> {
  readonly #db: CommonPowerSyncDatabase;

  constructor(
    db: CommonPowerSyncDatabase,
    /** Of its row: keep it to find the command again after a start. */
    readonly id: string
  ) {
    this.#db = db;
  }

  async status(): Promise<CommandStatus> {
    return (await this.#look()).status;
  }

  /**
   * What the function returned, when it has: minutes or days later. Throws the function's own refusal as a
   * `LowtideError`; `signal` gives up the wait, not the command.
   */
  async result(signal?: AbortSignal): Promise<Result> {
    return until([signal], async (end) => {
      const tables = [COMMANDS, REJECTIONS].filter((name) => this.#db.schema.tables.some((table) => table.name === name));
      const options = { tables, signal: end, triggerImmediate: true, throttleMs: 0 };
      if (!end.aborted) {
        for await (const _ of this.#db.onChange(options)) {
          const { status, row, refused } = await this.#look();
          if (status === 'done') return JSON.parse(row?.result ?? 'null') as Result;
          if (status === 'failed') throw failure(row?.error ?? null, refused);
        }
      }
      throw new LowtideError('aborted', 'The wait was given up; the command goes on.');
    });
  }

  /** Forget the command and its result, here and on the server. One that was not sent yet is not run. */
  async dismiss(): Promise<void> {
    await this.#db.execute(`DELETE FROM ${COMMANDS} WHERE id = ?`, [this.id]);
  }

  async #look(): Promise<{ status: CommandStatus; row: Row | null; refused: Refused | null }> {
    const row = await this.#db.getOptional<Row>(`SELECT * FROM ${COMMANDS} WHERE id = ?`, [this.id]);
    if (row) {
      const known = row.status === 'pending' || row.status === 'done' || row.status === 'failed';
      return { status: known ? (row.status as CommandStatus) : 'waiting', row, refused: null };
    }
    const tables = this.#db.schema.tables.map((table) => table.name);
    const sql = `SELECT code, message, hint FROM ${REJECTIONS} WHERE model = '${COMMANDS}' AND record_id = ?`;
    const refused = tables.includes(REJECTIONS) ? await this.#db.getOptional<Refused>(sql, [this.id]) : null;
    return { status: 'failed', row: null, refused };
  }
}

interface Refused {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export class ServerFunctions<Functions extends object> {
  readonly #db: CommonPowerSyncDatabase;
  readonly #connector: LowtideConnector;

  constructor(db: CommonPowerSyncDatabase, connector: LowtideConnector) {
    this.#db = db;
    this.#connector = connector;
  }

  /** Call it now. Needs the network; an answer that is lost on the way is asked for again, and it runs once. */
  async call<Name extends keyof Functions & string>(
    name: Name,
    args: ArgsOf<Functions, Name>
  ): Promise<ResultOf<Functions, Name>> {
    const path = `/v1/functions/${encodeURIComponent(name)}`;
    const sending = { body: args, deadline: 60_000, attempts: ATTEMPTS, holds: 'result' };
    return (await this.#connector.request<{ result: ResultOf<Functions, Name> }>('POST', path, sending)).result;
  }

  /** Have it run when the network allows: kept on this device, sent in order with all other changes. */
  async command<Name extends keyof Functions & string>(
    name: Name,
    args: ArgsOf<Functions, Name>
  ): Promise<Command<ResultOf<Functions, Name>>> {
    const { id } = await this.#db.get<{ id: string }>('SELECT uuid() AS id');
    await this.#db.execute(`INSERT INTO ${COMMANDS}(id, name, args) VALUES (?, ?, ?)`, [id, name, JSON.stringify(args)]);
    return new Command(this.#db, id);
  }

  /** A command of before, by its id. */
  find<Name extends keyof Functions & string>(id: string): Command<ResultOf<Functions, Name>> {
    return new Command(this.#db, id);
  }
}

function failure(error: string | null, refused: Refused | null): LowtideError {
  const told = refused ?? (JSON.parse(error ?? 'null') as Refused | null);
  if (!told) return new LowtideError('not_found', 'There is no such command.', { status: 404 });
  return new LowtideError(told.code, told.message, { hint: told.hint ?? '', problem: { ...told, hint: told.hint ?? '' } });
}
