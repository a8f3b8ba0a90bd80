// A web app in a real browser beside a phone: offline edits, a reload without a network, two tabs.

import { open } from './browser.mjs';
import { ask, content, joinTeam, phone, put, scenario, server, sleep, until, uploaded, url } from './harness.mjs';
import { site } from './web/site.mjs';

const TASKS = 40;
const WAIT = 20_000;

/** Wait until `query` gives `rows` in the page. */
async function shown(page, query, rows) {
  const end = Date.now() + WAIT;
  let seen;
  while (Date.now() < end) {
    seen = await page.evaluate((sql) => window.db.getAll(sql), query);
    if (JSON.stringify(seen) === JSON.stringify(rows)) return;
    await sleep(20);
  }
  throw new Error(`${query}: expected ${JSON.stringify(rows)}, and there is ${JSON.stringify(seen)}`);
}

const tables = (page) =>
  page.evaluate(async () => {
    const all = {};
    for (const { name, columns } of window.db.schema.tables) {
      const names = columns.map((column) => column.name).join(', ');
      all[name] = await window.db.getAll(`SELECT id, ${names} FROM ${name} ORDER BY id`);
    }
    return all;
  });

async function tab(page, app) {
  await page.exposeFunction('token', (user) => ask('token', { user }));
  await page.goto(app.address);
  await page.waitForFunction(() => window.start);
  await page.evaluate(() => window.start({ user: 'anna', file: 'crew.db' }));
}

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(...Array.from({ length: TASKS }, (_, n) => put('task', `task${n}`, { team_id: 'red', title: `Task ${n}` })));
  await server(put('task', 'hidden', { team_id: 'blue', title: 'Not for her' }));
  const ben = await phone('ben');
  const app = await site(url);
  const { browser, page } = await open();
  try {
    await tab(page, app);
    await shown(page, 'SELECT count(*) AS n FROM task', [{ n: TASKS }]);
    await ben.db.execute(`UPDATE task SET title = 'Live' WHERE id = 'task0'`);
    await shown(page, `SELECT title FROM task WHERE id = 'task0'`, [{ title: 'Live' }]);

    // Both change the same record of every kind while neither hears of the other.
    app.cut();
    await ben.offline();
    const edit = (title, label, votes, notes) => [
      [`UPDATE task SET title = ?, tags = ?, votes = votes + ?, notes = ? WHERE id = 'task1'`],
      [title, JSON.stringify([label]), votes, notes]
    ];
    const [[sql], anna] = edit('By Anna', 'web', 2, 'anna was here');
    await page.evaluate((sql, values) => window.db.execute(sql, values), sql, anna);
    await ben.db.execute(sql, edit('By Ben', 'node', 3, '')[1]);
    await page.evaluate(() => window.db.execute(`DELETE FROM task WHERE id = 'task2'`));

    // A reload without a network: everything is still there, and nothing of it is waited for.
    await page.reload();
    await page.waitForFunction(() => window.start);
    await page.evaluate(() => window.start({ user: 'anna', file: 'crew.db' }));
    await shown(page, `SELECT title, votes FROM task WHERE id = 'task1'`, [{ title: 'By Anna', votes: 2 }]);
    await shown(page, 'SELECT count(*) AS n FROM task', [{ n: TASKS - 1 }]);
    const waiting = await page.evaluate(() => window.db.getAll('SELECT count(*) AS n FROM ps_crud'));

    app.mend();
    await ben.online();
    await shown(page, 'SELECT count(*) AS n FROM ps_crud', [{ n: 0 }]);
    await uploaded(ben);
    await until(ben.db, `SELECT votes FROM task WHERE id = 'task1'`, [{ votes: 5 }]);
    await shown(page, `SELECT votes FROM task WHERE id = 'task1'`, [{ votes: 5 }]);

    // A second tab on the same database: one sync, and what one writes the other shows.
    const second = await browser.newPage();
    second.faults = page.faults;
    second.on('pageerror', (error) => page.faults.push(String(error)));
    await tab(second, app);
    await second.evaluate(() => window.db.execute(`UPDATE task SET title = 'From the second tab' WHERE id = 'task3'`));
    await shown(page, `SELECT title FROM task WHERE id = 'task3'`, [{ title: 'From the second tab' }]);
    await until(ben.db, `SELECT title FROM task WHERE id = 'task3'`, [{ title: 'From the second tab' }]);
    await second.close();

    await server(put('alarm', 'end', { text: 'the end' }));
    await shown(page, `SELECT id FROM alarm`, [{ id: 'end' }]);
    await until(ben.db, 'SELECT id FROM alarm', [{ id: 'end' }]);
    const network = /ERR_|Failed to load resource|network error|Failed to fetch/; // what the browser says of the cut itself
    const faults = page.faults.filter((fault) => !network.test(fault));
    return { waiting, anna: await tables(page), ben: await content(ben), faults };
  } finally {
    await browser.close();
  }
});
