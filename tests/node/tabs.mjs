// The client in a real browser: two tabs with one session, a passkey, a network that goes away.
//
// `node tabs.mjs ADDRESS FILE`: the server's address on localhost, and the client as it is handed out. Prints what
// happened as one line of JSON.

import { readFile } from 'node:fs/promises';
import { authenticator, open } from './browser.mjs';

const [address, file] = process.argv.slice(2);
const client = await readFile(file, 'utf8');
const PAGE = `<!doctype html><title>app</title><script type="module">
  import * as client from '/client.js';
  globalThis.client = client;
  globalThis.start = async (store) => {
    globalThis.session = new client.Session({ endpoint: location.origin, store, device: { name: 'Tab' } });
    globalThis.heard = [];
    session.onChange((state) => heard.push([state.status, state.user?.anonymous ?? null]));
    await session.restore();
    return [session.state.status, session.user?.id ?? null];
  };
</script>`;

/** A tab on the server's own origin, with the client loaded. */
async function serve(page) {
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    const path = request.url().slice(address.length);
    if (path === '/page') request.respond({ contentType: 'text/html', body: PAGE });
    else if (path === '/client.js') request.respond({ contentType: 'text/javascript', body: client });
    else if (path === '/favicon.ico') request.respond({ status: 204 });
    else request.continue();
  });
  await page.goto(`${address}/page`);
  await page.waitForFunction(() => globalThis.start);
  return page;
}

const { browser, page } = await open();
try {
  const [one, two] = [await serve(page), await serve(await browser.newPage())];
  const start = (tab) => tab.evaluate(() => start(client.webStore()));
  const report = { empty: await start(one) };
  report.locks = await one.evaluate(() => Boolean(navigator.locks));
  const user = (await one.evaluate(async () => (await session.signIn.anonymous()).user)).id;
  report.shared = (await start(two))[1] === user;

  // Both tabs find their token refused at the same time, over and over.
  const storm = (tab) =>
    tab.evaluate(async () => {
      const seen = [];
      for (let i = 0; i < 15; i++) seen.push(await session.token(await session.token()));
      return seen;
    });
  const tokens = await Promise.all([storm(one), storm(two)]);
  const alive = (tab) => tab.evaluate(async () => (await session.account.read()).id);
  report.storm = {
    none: tokens.flat().filter((token) => !token).length,
    alive: (await alive(one)) === user && (await alive(two)) === user,
    devices: await one.evaluate(async () => (await session.account.devices()).length)
  };

  // A passkey made in one tab makes the user of both one with a name.
  await authenticator(one);
  report.passkey = await one.evaluate(async () => (await session.account.addPasskey('Phone')).name);
  await two.waitForFunction(() => session.user?.anonymous === false);
  report.named = await two.evaluate(() => session.user.id);
  report.named = report.named === user;
  report.twice = await one.evaluate(() => session.account.addPasskey('Again').catch((error) => error.code));

  // Signed out in one, signed out in both; and in again with the passkey.
  await two.evaluate(() => session.signOut());
  await one.waitForFunction(() => session.state.status === 'signed_out');
  report.kept = await one.evaluate(() => JSON.parse(localStorage.getItem('lowtide.session')).session);
  report.again = await one.evaluate(async () => {
    const { status, user } = await session.signIn.passkey();
    return [status, user.id];
  });
  report.again[1] = report.again[1] === user;
  await two.waitForFunction(() => session.user !== null);

  // The network goes: the page says so, and nobody is signed out.
  await one.evaluate(() => {
    const watch = client.browserSurroundings();
    globalThis.seen = [watch.now().online];
    watch.subscribe(() => seen.push(watch.now().online));
  });
  await one.setOfflineMode(true);
  report.offline = await one.evaluate(async () => {
    const error = await session.refresh().catch((error) => error);
    return [error.code, error.retryable, session.state.status, session.user !== null];
  });
  await one.setOfflineMode(false);
  await one.waitForFunction(() => seen.length >= 3);
  report.online = [await one.evaluate(() => seen.slice(0, 3)), await one.evaluate(async () => (await session.refresh()).status)];

  // IndexedDB, for workers.
  report.indexed = await one.evaluate(async () => {
    const store = client.indexedDbStore();
    const before = await store.get('lowtide.session');
    await start(store);
    await session.signIn.anonymous();
    const kept = (await store.get('lowtide.session')).includes(session.user.id);
    await session.signOut();
    await store.remove('lowtide.session');
    return [before, kept, await store.get('lowtide.session')];
  });
  report.faults = page.faults.filter((fault) => !/Failed to load resource/.test(fault));
  console.log(JSON.stringify(report));
} finally {
  await browser.close();
}
