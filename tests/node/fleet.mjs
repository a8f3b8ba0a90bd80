// A mixed fleet: phones on WatermelonDB, on RxDB, on the SDK for Node over HTTP and over WebSockets, and a web app in
// a browser change the same records, offline and online, while answers to pushes and batches are lost. Every change is written down with what its user saw; the test
// compares that with the end.

import { isDeepStrictEqual } from 'node:util';
import { SyncStreamConnectionMethod } from '@powersync/node';
import { open } from './browser.mjs';
import { ask, given, joinTeam, phone, put, request, scenario, server, sleep, uploaded, url } from './harness.mjs';
import { rx } from './rx.mjs';
import { melon } from './watermelon.mjs';
import { site } from './web/site.mjs';

const TASKS = ['t0', 't1', 't2', 't3'];

let state = given.seed;
/** A number from 0 to below `below`, the same for the same seed. */
const random = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};
const pick = (list) => list[random(list.length)];

let losing = false;
let lost = 0;
/** Is the answer to this request lost? */
function lose(method, address) {
  if (!losing || method !== 'POST' || !/\/(push|batches)$/.test(address) || random(3) > 0) return false;
  lost++;
  return true;
}
const real = globalThis.fetch;
globalThis.fetch = async (address, options) => {
  const answer = await real(address, options);
  if (!lose(options?.method, String(address))) return answer;
  await answer.arrayBuffer();
  throw new TypeError('fetch failed');
};

const log = [];
let made = 0;

/** What a user does to a task: its new fields, written down. */
function edit(who, id, { title, votes, tags, notes }) {
  const entry = { who, id };
  const values = {};
  const kind = random(5);
  if (kind === 0) {
    entry.before = title;
    entry.title = values.title = `${who} ${++made}`;
  }
  if (kind === 1 || kind === 0) {
    entry.votes = random(9) - 3;
    values.votes = votes + entry.votes;
  }
  if (kind === 2) {
    entry.added = `${who}${++made}`;
    values.tags = [...tags, entry.added];
  }
  if (kind === 3 && tags.length > 2) {
    entry.removed = pick(tags);
    values.tags = tags.filter((tag) => tag !== entry.removed);
  }
  if (kind === 4) {
    entry.word = `${who}${++made}`;
    values.notes = `${notes} ${entry.word}`.trim();
  }
  log.push(entry);
  return values;
}

const parsed = ({ tags, ...fields }) => ({ ...fields, tags: typeof tags === 'string' ? JSON.parse(tags) : tags });
const FIELDS = ['title', 'votes', 'tags', 'notes', 'team_id'];
const shown = (row) => {
  const fields = parsed(row);
  return { ...Object.fromEntries(FIELDS.map((name) => [name, fields[name]])), tags: [...fields.tags].sort() };
};

const KINDS = {
  async melon(user) {
    const one = await melon(user);
    await one.sync();
    return {
      user,
      change: (id) =>
        one.database.write(async () => {
          const record = await one.database.get('task').find(id);
          const values = edit(user, id, parsed(record._raw));
          await record.update(() => {
            for (const [name, value] of Object.entries(values))
              record._setRaw(name, name === 'tags' ? JSON.stringify(value) : value);
          });
        }),
      create: (id, values) => one.make('task', id, { ...values, tags: JSON.stringify(values.tags), state: 'todo' }),
      rows: () => one.rows('task'),
      toggle: () => one.sync().catch(() => {}),
      settle: () => one.sync(),
      count: () => one.dirty('task')
    };
  },
  async rx(user) {
    const one = await rx(user);
    let online = true;
    return {
      user,
      change: async (id) => {
        const document = await one.db.task.findOne(id).exec(true);
        await document.incrementalModify((fields) => ({ ...fields, ...edit(user, id, fields) }));
      },
      create: (id, values) => one.make('task', id, values),
      rows: () => one.rows('task'),
      toggle: async () => {
        online = !online;
        await (online ? one.online() : one.offline());
      },
      settle: async () => {
        if (!online) one.online();
        online = true;
        await one.synced();
      },
      count: async () => 0
    };
  },
  socket: (user) => KINDS.sdk(user, 'WEB_SOCKET'),
  async sdk(user, method = 'HTTP') {
    const one = await phone(user, { options: { connectionMethod: SyncStreamConnectionMethod[method] } });
    let online = true;
    const all = () => one.db.getAll('SELECT * FROM task');
    return {
      user,
      change: (id) =>
        one.db.writeTransaction(async (tx) => {
          const values = edit(user, id, parsed(await tx.get('SELECT * FROM task WHERE id = ?', [id])));
          for (const [name, value] of Object.entries(values))
            await tx.execute(`UPDATE task SET ${name} = ? WHERE id = ?`, [
              name === 'tags' ? JSON.stringify(value) : value,
              id
            ]);
        }),
      create: (id, { title, votes, tags, notes, team_id }) =>
        one.db.execute(
          `INSERT INTO task (id, team_id, title, votes, tags, notes, steps, state, approved) VALUES (?, ?, ?, ?, ?, ?, '[]', 'todo', 0)`,
          [id, team_id, title, votes, JSON.stringify(tags), notes]
        ),
      rows: async () => Object.fromEntries((await all()).map((row) => [row.id, row])),
      toggle: async () => {
        online = !online;
        await (online ? one.online() : one.offline());
      },
      settle: async () => {
        if (!online) await one.online();
        online = true;
        await uploaded(one);
      },
      count: async () => 0
    };
  },
  async web(user) {
    const app = await site(url, { lose: ({ method, url }) => lose(method, url) });
    const { browser, page } = await open();
    await page.exposeFunction('token', (user) => ask('token', { user }));
    await page.exposeFunction('change', (id, row) => edit(user, id, parsed(row)));
    await page.goto(app.address);
    await page.waitForFunction(() => window.start);
    await page.evaluate((user) => window.start({ user, file: 'fleet.db' }), user);
    const all = () => page.evaluate(() => window.db.getAll('SELECT * FROM task'));
    let online = true;
    return {
      user,
      change: (id) =>
        page.evaluate(
          (id) =>
            window.db.writeTransaction(async (tx) => {
              const values = await window.change(id, await tx.get('SELECT * FROM task WHERE id = ?', [id]));
              for (const [name, value] of Object.entries(values))
                await tx.execute(`UPDATE task SET ${name} = ? WHERE id = ?`, [
                  name === 'tags' ? JSON.stringify(value) : value,
                  id
                ]);
            }),
          id
        ),
      create: (id, { title, votes, tags, notes, team_id }) =>
        page.evaluate(
          (values) =>
            window.db.execute(
              `INSERT INTO task (id, team_id, title, votes, tags, notes, steps, state, approved) VALUES (?, ?, ?, ?, ?, ?, '[]', 'todo', 0)`,
              values
            ),
          [id, team_id, title, votes, JSON.stringify(tags), notes]
        ),
      rows: async () => Object.fromEntries((await all()).map((row) => [row.id, row])),
      toggle: async () => {
        online = !online;
        if (online) app.mend();
        else app.cut();
      },
      settle: async () => {
        app.mend();
        online = true;
        while (await page.evaluate(async () => (await window.db.getAll('SELECT 1 FROM ps_crud LIMIT 1')).length)) await sleep(20);
      },
      count: async () => 0,
      close: () => browser.close()
    };
  }
};

await scenario(async () => {
  const users = { ada: 'sdk', ben: 'sdk', cleo: 'melon', dan: 'melon', eve: 'rx', fay: 'rx', gil: 'socket', hal: 'web' };
  await joinTeam('red', ...Object.keys(users));
  await server(...TASKS.map((id) => put('task', id, { team_id: 'red', title: 'Start', votes: 100, tags: '[]' })));
  const fleet = [];
  for (const [user, kind] of Object.entries(users)) fleet.push(await KINDS[kind](user));
  let seen = {};
  for (const one of fleet) {
    const end = Date.now() + 20_000;
    do {
      seen = await one.rows();
      if (Date.now() > end) throw new Error(`${one.user} has ${JSON.stringify(seen)}`);
      await sleep(5);
    } while (!TASKS.every((id) => id in seen));
  }
  losing = true;
  for (let step = 0; step < given.steps; step++) {
    const one = pick(fleet);
    const roll = random(10);
    if (roll < 3) await one.toggle();
    else if (roll === 3) {
      const id = `n${++made}`;
      const values = { team_id: 'red', title: `${one.user} ${++made}`, votes: 10, tags: [], notes: '' };
      log.push({ who: one.user, id, made: true, title: values.title, votes: 10 });
      await one.create(id, values);
    } else await one.change(pick(Object.keys(await one.rows())));
    if (random(3) === 0) await sleep(random(15));
  }
  losing = false;
  let ends;
  const end = Date.now() + 40_000;
  do {
    for (const one of fleet) await one.settle().catch(() => {});
    await sleep(50);
    ends = await Promise.all(
      fleet.map(async ({ rows }) => {
        const entries = Object.entries(await rows()).map(([id, row]) => [id, shown(row)]);
        return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
      })
    );
    if (Date.now() > end) break;
  } while (!ends.every((one) => isDeepStrictEqual(one, ends[0])));
  const journal = {};
  const token = await ask('token', { user: 'ada' });
  for (const id of Object.keys(ends[0])) {
    const path = `/v1/sync/conflicts?model=task&id=${id}&limit=500`;
    journal[id] = (await request('GET', path, token)).conflicts.map(({ field, lost }) => [field, lost]);
  }
  const dirty = await Promise.all(fleet.map((one) => one.count()));
  for (const one of fleet) await one.close?.();
  return { ends, log, journal, lost, dirty };
}, { both: true });
