// A first sync of many rows into a browser: it says how far it is, goes on after a reload, and the page can be used.

import { open } from './browser.mjs';
import { ask, given, put, scenario, server, sleep, url } from './harness.mjs';
import { site } from './web/site.mjs';

const { rows } = given;
const BATCH = 5_000;
const STORY = 'Low tide, a long walk over the flats, and home before the water comes back. '.repeat(2);

async function start(page) {
  await page.waitForFunction(() => window.start);
  await page.evaluate(() => window.start({ user: 'anna', file: 'crew.db' }));
  await page.evaluate(() => window.observe());
}

const done = (page) => page.evaluate(async () => (await window.db.get('SELECT count(*) AS n FROM city')).n);

await scenario(async () => {
  for (let first = 0; first < rows; first += BATCH) {
    const some = Array.from({ length: Math.min(BATCH, rows - first) }, (_, i) => first + i);
    await server(...some.map((n) => put('city', `city${n}`, { name: `Town ${n}`, story: `${n}: ${STORY}` })));
  }
  const app = await site(url);
  const { browser, page } = await open();
  try {
    await page.exposeFunction('token', (user) => ask('token', { user }));
    await page.goto(app.address);
    const began = Date.now();
    await start(page);

    // A third of the way the network goes, and the page is loaded anew.
    const third = () => page.evaluate((n) => (window.seen.progress.at(-1)?.[0] ?? 0) > n, rows / 3);
    while (!(await third())) await sleep(10);
    app.cut();
    const before = await page.evaluate(() => window.seen);
    const half = app.bytes;
    await page.reload();
    const partial = await (async () => {
      await start(page);
      return done(page);
    })();
    app.mend();
    await page.evaluate(() => window.db.waitForFirstSync());
    const after = await page.evaluate(() => window.seen);
    return {
      seconds: (Date.now() - began) / 1000,
      count: await done(page),
      partial,
      bytes: [half, app.bytes - half],
      progress: [before.progress, after.progress],
      stall: Math.max(before.stall, after.stall)
    };
  } finally {
    await browser.close();
  }
});
