// What a scenario needs besides the SDK: phones, the app's own server, and the test that started it.
//
// A scenario is a program: it prints `ask {...}` to have something done to the server and gets one line
// of JSON back, prints `report {...}` at its end, and everything else goes to stderr.

import { randomUUID } from 'node:crypto';
import { subscribe } from 'node:diagnostics_channel';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import { LowtideConnector } from '@lowtide/client';
import { PowerSyncDatabase, SyncStreamConnectionMethod } from '@powersync/node';
import { CREW } from './schema.mjs';

const context = JSON.parse(process.env.SCENARIO); // { url, folder, mode, transport, given }
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const logger = { log: ({ level, message, error }) => level >= 20 && console.error(message, error ?? '') };
const WAIT = 20_000;

export const { url, folder, mode, transport, given } = context;
export const uuid = randomUUID;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let sockets = 0;
subscribe('undici:websocket:open', () => sockets++);

let asked = Promise.resolve();

/** Have the test do something: 'kill', 'start', 'stop', 'deploy', or 'token'. */
export function ask(what, details = {}) {
  asked = asked.then(async () => {
    process.stdout.write(`ask ${JSON.stringify({ what, ...details })}\n`);
    return JSON.parse((await answers.next()).value);
  });
  return asked;
}

/** Runs the scenario; what it returns is its report. `both`: it uses WebSockets beside HTTP. */
export async function scenario(run, { both = false } = {}) {
  try {
    const report = await run();
    if (sockets > 0 !== (both || transport === 'WEB_SOCKET')) throw new Error(`${sockets} WebSockets were opened`);
    process.stdout.write(`report ${JSON.stringify(report)}\n`, () => process.exit(0));
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
}

/**
 * A phone: one database, one user, as an app sets it up. Connected, unless `online` is false. Its tokens are
 * made by the test for `user`, or come from `getToken`.
 */
export async function phone(name, { user = name, schema = CREW, online = true, ttl, ...more } = {}) {
  const { options = {}, connecting = {}, remoteOptions, file = `${name}.db`, getToken = () => ask('token', { user, ttl }) } = more;
  const db = new PowerSyncDatabase({
    schema,
    database: { dbFilename: join(folder, file), readWorkerCount: 1 },
    logger,
    remoteOptions
  });
  const self = { name, db, refused: [], uploads: [], tokens: 0, getToken };
  const connector = new LowtideConnector({
    endpoint: url,
    tokens: () => {
      self.tokens++;
      return self.getToken();
    },
    onRefused: (refusals) => self.refused.push(...refusals),
    onUpload: (answer) => self.uploads.push(answer),
    ...connecting
  });
  await connector.prepare(db);
  Object.assign(self, {
    connector,
    // Short pauses, so that a scenario takes seconds; an app leaves out both numbers.
    online: (changed = {}) =>
      db.connect(connector, {
        checkpointMode: mode,
        connectionMethod: SyncStreamConnectionMethod[transport],
        retryDelayMs: 100,
        crudUploadThrottleMs: 10,
        ...options,
        ...changed
      }),
    offline: () => db.disconnect()
  });
  if (online) await self.online();
  return self;
}

/** Wait until `query` gives `rows`. */
export async function until(db, query, rows, parameters = []) {
  const end = Date.now() + WAIT;
  let seen;
  while (Date.now() < end) {
    seen = await db.getAll(query, parameters);
    if (isDeepStrictEqual(seen, rows)) return;
    await sleep(10);
  }
  throw new Error(`${query}: expected ${JSON.stringify(rows)}, and there is ${JSON.stringify(seen)}`);
}

/** Wait until everything that was written here has been uploaded. */
export const uploaded = ({ db }) => until(db, 'SELECT count(*) AS n FROM ps_crud', [{ n: 0 }]);

/** Wait until all these phones have sent what they wrote, and show everything that the server has then. */
export async function caughtUp(...phones) {
  for (const phone of phones) await uploaded(phone);
  const mark = uuid();
  const shown = (rows) =>
    Promise.all(phones.map(({ db }) => until(db, 'SELECT id FROM alarm WHERE id = ?', rows, [mark])));
  await server(put('alarm', mark, { text: 'mark' }));
  await shown([{ id: mark }]);
  await server(remove('alarm', mark));
  await shown([]);
}

/** Every row that the app sees, by table. */
export async function content({ db }) {
  const all = {};
  for (const { name, columns } of db.schema.tables) {
    const names = columns.map((column) => column.name).join(', ');
    all[name] = await db.getAll(`SELECT id, ${names} FROM ${name} ORDER BY id`);
  }
  return all;
}

/** What every query of `sql` has shown, each time that its tables changed. */
export function history({ db }, sql, parameters = []) {
  const seen = [];
  db.watch(sql, parameters, { onResult: (result) => seen.push(result.rows._array) }, { throttleMs: 0 });
  return seen;
}

export const put = (model, id, data) => ({ op: 'put', model, id, data });
export const patch = (model, id, data) => ({ op: 'patch', model, id, data });
export const remove = (model, id) => ({ op: 'delete', model, id });

const lineage = uuid();
let number = 0;

/** A change by the app's own server, in one transaction: write rules do not bind it. */
export async function server(...mutations) {
  const token = await ask('token', { user: 'backend', server: true });
  const numbered = mutations.map((mutation) => ({ n: ++number, ...mutation }));
  const answer = await request('POST', '/v1/sync/batches', token, {
    client_id: `backend-${lineage}`,
    transactions: [{ mutations: numbered }]
  });
  for (const result of answer.results) {
    if (result.status === 'refused') throw new Error(JSON.stringify(result));
  }
}

/** One request to the server; its answer, which must be a success. */
export async function request(method, path, token, body) {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body)
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  return answer;
}

/** Let users into a team. */
export async function joinTeam(team_id, ...users) {
  await server(...users.map((user_id) => put('membership', `${team_id}-${user_id}`, { user_id, team_id })));
}
