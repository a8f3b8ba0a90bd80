// The playground in a real browser: `node playground.mjs ADDRESS`.
//
// Prints what was seen as one line of JSON; what it should be is the test's to say. Nobody waits for a time here,
// but for what should come; what does not come fails with its name.

import { open, until } from './browser.mjs';

const [address] = process.argv.slice(2);
const WIDE = { width: 1440, height: 900 };
const seen = { steps: {} };
const opened = await open({ viewport: WIDE });
const { browser } = opened;
const { faults } = opened.page; // what any page did wrong
let { page } = opened;

const frame = (id) => page.frames().find((one) => one.url().endsWith(`/phone/${id}`));
/** What a phone shows, and what its database holds. */
const screen = (id) =>
  frame(id).evaluate(async () => {
    const { screen } = window.phone.todos;
    const rows = await window.phone.todos.db.getAll('SELECT count(*) AS n FROM ps_oplog WHERE data IS NOT NULL');
    const { waiting, connected } = await window.phone.report();
    return { ...screen, waiting, connected, rows: rows[0].n, shown: document.body.innerText };
  });
const settled = (id) => until(`${id} to settle`, async () => (await screen(id)).waiting === 0 && (await screen(id)).connected);
const flip = (id, name) =>
  page.evaluate(
    (id, name) =>
      [...document.querySelectorAll(`#place-${id} .switch`)].find((one) => one.innerText.trim() === name).click(),
    id,
    name
  );
const choose = (id, label, value) => page.select(`#place-${id} label:nth-of-type(${label}) select`, value);
const ready = async () => {
  await until('three phones', () => page.evaluate(() => document.querySelectorAll('.signal.on').length === 3));
  for (const id of 'abc') await until(`${id} to show to-dos`, async () => (await screen(id)).todos.length > 0);
};
const first = async (id) => (await screen(id)).todos[0];
const vote = async (id, times) => {
  for (let n = 0; n < times; n++) await frame(id).click('.votes');
};
/** Another tab, in place of `closed` if there is one: closed first, as a browser that crashes does. */
async function another(closed) {
  const tab = await browser.newPage();
  await closed?.close();
  await tab.setViewport(WIDE);
  tab.on('pageerror', (error) => faults.push(String(error)));
  tab.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
  return tab;
}
/** What a step saw, kept under its name. */
const step = async (name, run) => {
  const began = Date.now();
  seen[name] = await run();
  seen.steps[name] = Date.now() - began;
  console.error(name, seen.steps[name]);
};

async function write(id, { title, label, votes, notes, steps }) {
  const inside = frame(id);
  if (!(await inside.$('.notes'))) await inside.click('.more');
  await inside.waitForSelector('.notes');
  await inside.$eval('.title', (input) => input.select());
  await inside.type('.title', title);
  await inside.$eval('.title', (input) => input.blur());
  await inside.click('.add-label');
  await inside.waitForSelector('.new-label');
  await inside.type('.new-label', label);
  await inside.$eval('.new-label', (input) => input.blur());
  await inside.$eval('.notes', (input, end) => input.setSelectionRange(...(end ? [9999, 9999] : [0, 0])), notes.end);
  await inside.type('.notes', notes.text);
  await inside.$eval('.notes', (input) => input.blur());
  await inside.type('.steps input', steps);
  await inside.click('.steps form button');
  await vote(id, votes);
}

/** The first to-do's votes on each phone, once every phone has as many as that. */
async function everywhere(votes) {
  const all = async () => (await Promise.all([...'abc'].map(first))).map((one) => one.votes);
  await until('the votes to be everywhere', async () => (await all()).every((some) => some >= votes));
  return all();
}

try {
  await step('begin', async () => {
    const answer = await page.goto(`${address}/playground`);
    await ready();
    return {
      status: answer.status(),
      titles: (await screen('a')).todos.map((one) => one.title),
      members: (await screen('c')).members.map((one) => one.user),
      strangers: await page.evaluate((here) => performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(here) && !name.startsWith('data:')), address)
    };
  });

  await step('merge', async () => {
    const before = await first('c');
    for (const id of 'ab') await flip(id, 'Airplane');
    await until('both to be offline', async () => !(await screen('a')).connected && !(await screen('b')).connected);
    await write('a', { title: 'From ann', label: 'dry', votes: 3, notes: { text: 'Dry. ', end: false }, steps: 'Saw' });
    await until('ann to have written', async () => (await first('a')).votes === before.votes + 3 && (await first('a')).notes.startsWith('Dry'));
    await write('b', { title: 'From ben', label: 'wet', votes: 2, notes: { text: ' Or buy.', end: true }, steps: 'Axe' });
    await until('ben to have written', async () => (await first('b')).votes === before.votes + 2 && (await first('b')).notes.endsWith('buy.'));
    // A reload without a network: the page's files come from the server, the phone's network stays away.
    await page.reload();
    await until('ann to be back', async () => (await first('a')).title === 'From ann');
    await until('ben to be back', async () => (await first('b')).title === 'From ben');
    await until('cleo to be back', async () => (await screen('c')).connected);
    const offline = { ann: await screen('a'), ben: await screen('b'), cleo: await first('c') };
    await flip('b', 'Airplane');
    await settled('b');
    await until('cleo to hear of ben', async () => (await first('c')).title === 'From ben');
    await flip('a', 'Airplane');
    await settled('a');
    await until('ann to hear that she lost', async () => (await screen('a')).lost.length > 0);
    await until('the phones to agree', async () => {
      const all = await Promise.all([...'abc'].map(first));
      return all.every((one) => JSON.stringify(one) === JSON.stringify(all[0]) && one.labels.includes('dry'));
    });
    const after = await Promise.all([...'abc'].map(screen));
    const server = await page.$eval('.server-view', (view) => view.innerText);
    await frame('a').click('.lost button');
    await until('hers to be back', async () => (await Promise.all([...'abc'].map(first))).every((one) => one.title === 'From ann'));
    return { before, offline, after, server, restored: (await screen('a')).lost };
  });

  await step('clock', async () => {
    await choose('a', 1, String(365 * 24 * 3600_000));
    for (const id of 'ab') await flip(id, 'Airplane');
    await until('both to be offline', async () => !(await screen('a')).connected && !(await screen('b')).connected);
    const change = (id, title) => frame(id).evaluate((title) => window.phone.todos.change(window.phone.todos.screen.todos[1].id, { title }), title);
    const year = await frame('a').evaluate(() => new Date().getFullYear());
    const true_ = new Date().getFullYear();
    await change('a', 'A year ahead');
    const stamp = await frame('a').evaluate(async () => (await window.phone.todos.db.get('SELECT max(at) AS at FROM lowtide_stamp')).at);
    // Of a clock that is wrong the differences count, and the upload's way is no part of them.
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    await change('b', 'Truly later');
    for (const id of 'ba') await flip(id, 'Airplane');
    await settled('a');
    await settled('b');
    await until('agreement', async () => (await Promise.all([...'abc'].map(screen))).every((one) => one.todos[1].title === 'Truly later'));
    await choose('a', 1, '0');
    return { year: year - true_, stamp: stamp - Date.now() };
  });

  await step('killed', async () => {
    const before = await first('c');
    await flip('c', 'Slow train');
    await vote('c', 2);
    await until('the upload to be under way', () => page.evaluate(() => [...document.querySelectorAll('#place-c .wire li')].some((one) => one.innerText.includes('changes') && one.innerText.includes('under way'))));
    page = await another(page);
    await page.goto(`${address}/playground`);
    await ready();
    await flip('c', 'Slow train');
    await settled('c');
    return { before: before.votes, after: await everywhere(before.votes + 2) };
  });

  await step('tabs', async () => {
    const second = await another();
    await second.goto(`${address}/playground/phone/a`);
    const before = await first('b');
    await until('the second tab', async () => (await second.evaluate(() => window.phone.todos.screen.todos.length)) > 0);
    await second.click('.votes');
    await vote('a', 1);
    await until('both votes', async () => (await first('b')).votes >= before.votes + 2);
    const inSecond = await until('the second tab to agree', () => second.evaluate((votes) => window.phone.todos.screen.todos[0].votes === votes && document.body.innerText, before.votes + 2));
    await settled('a');
    const both = { before: before.votes, after: (await first('b')).votes, second: inSecond.includes(`${before.votes + 2}`) };
    await second.close();
    return both;
  });

  await step('user', async () => {
    seen.user_before = await screen('c');
    await choose('c', 2, 'dora');
    await until('dora', async () => (await screen('c')).shown.includes('dora is in no team'));
    const dora = await screen('c');
    await choose('c', 2, 'cleo');
    await until('cleo', async () => (await screen('c')).todos.length > 0);
    return dora;
  });

  await step('revoked', async () => {
    await flip('c', 'Airplane');
    await until('cleo to be offline', async () => !(await screen('c')).connected);
    await flip('c', 'Revoke');
    await until('the server to know', () => page.evaluate(() => !document.querySelector('.members').innerText.includes('cleo')));
    const offline = await screen('c');
    const before = await first('a');
    await vote('c', 1);
    await flip('c', 'Airplane');
    await until('the rows to go', async () => (await screen('c')).todos.length === 0);
    await until('the refusal', async () => (await screen('c')).refusals.length > 0);
    await settled('c');
    const after = await screen('c');
    const others = { before: before.votes, after: (await first('a')).votes, server: await page.$eval('.server-view', (view) => view.innerText) };
    await flip('c', 'Not in team');
    await until('the rows to come', async () => (await screen('c')).todos.length > 0);
    return { offline, after, others };
  });

  await step('basement', async () => {
    const before = await first('b');
    await flip('b', 'Basement');
    for (let n = 0; n < 4; n++) {
      await vote('b', 1);
      const sent = await frame('b').evaluate(() => window.phone.sent().length);
      await until('the network to be tried', async () => (await frame('b').evaluate(() => window.phone.sent().length)) > sent);
    }
    const fates = await frame('b').evaluate(() => window.phone.sent().map((one) => one.fate));
    await flip('b', 'Basement');
    await settled('b');
    return { fates, before: before.votes, after: await everywhere(before.votes + 4) };
  });

  await step('tour', async () => {
    // With the keyboard alone: every stop shows that it has the focus.
    await page.evaluate(() => document.activeElement.blur());
    await page.focus('.brand');
    const stops = [];
    for (let n = 0; n < 8; n++) {
      await page.keyboard.press('Tab');
      stops.push(await page.evaluate(() => [document.activeElement.innerText.replace(/\s+/g, ' ').trim(), getComputedStyle(document.activeElement).outlineStyle]));
      if (stops.at(-1)[0] === 'Begin') break;
    }
    await page.keyboard.press('Enter');
    const told = [];
    for (let n = 0; n < 40; n++) {
      const { word, text } = await until('the story to go on', () =>
        page.evaluate(() => {
          const press = document.querySelector('.press');
          return press.ariaDisabled !== 'true' && { word: press.innerText, text: document.querySelector('.telling p').innerText };
        }));
      told.push(text);
      if (word === 'Once more' || word === 'Try again') break;
      await page.keyboard.press('Enter');
    }
    // The last story ends with an account on the one and nobody on the other.
    await choose('a', 2, 'ann');
    await choose('b', 2, 'ben');
    await ready();
    // On into the first phone, and to its first checkbox.
    let inside = '';
    for (let n = 0; n < 6 && !inside.endsWith('done'); n++) {
      await page.keyboard.press('Tab');
      inside = await frame('a').evaluate(() => document.activeElement?.ariaLabel ?? '').catch(() => '');
    }
    await page.keyboard.press('Space');
    const done = await until('it to be done everywhere', async () => (await Promise.all([...'abc'].map(first))).every((one) => one.done));
    return { stops, told, inside, done, log: await page.$eval('[role=log]', (log) => [log.ariaLive, log.innerText]) };
  });

  await step('over', async () => {
    await page.evaluate(() => [...document.querySelectorAll('button')].find((one) => one.innerText === 'Start over').click());
    await page.waitForNavigation();
    await ready();
    return Promise.all([...'abc'].map(screen));
  });

  await step('opening', async () => {
    // This page takes what a phone needs to open its database, as another window may that is busy, or hangs.
    const take = (name) =>
      page.evaluate(async (name) => {
        const asking = setInterval(() => new BroadcastChannel(name).postMessage(null), 50); // as the SDK's storage asks for it
        await new Promise((taken) => navigator.locks.request(name, () => new Promise((give) => (taken(), (window.give = give)))));
        clearInterval(asking);
      }, name);
    const give = () => page.evaluate(() => window.give());
    const locks = () => page.evaluate(() => navigator.locks.query());
    const named = (list, part) => list.filter(({ name }) => name.includes(part)).length;
    const reload = (id) => frame(id).evaluate(() => location.reload());
    const wait = (id) => page.evaluate((id) => sessionStorage.getItem(`lowtide-playground-opening-${id}`), id);

    await take('lowtide-playground-opening');
    await reload('b');
    await reload('c');
    await until('two phones to wait', async () => named((await locks()).pending, 'playground-opening') === 2);
    const opened = named((await locks()).held, '.ahp-'); // folders of workers that hold a database: the first phone's
    await give();
    await ready();

    const file = await page.evaluate(async () => {
      const folder = await navigator.storage.getDirectory();
      for await (const name of folder.keys()) if (name.endsWith('-a-ann.db')) return name;
    });
    // What takes seconds for people does not here.
    const { identifier } = await page.evaluateOnNewDocument(() => {
      const { setTimeout } = window;
      window.setTimeout = (work, wait, ...more) => setTimeout(work, wait >= 4_000 ? wait / 50 : wait, ...more);
    });
    await take(`ahp:/${file}`);
    await reload('a');
    const told = await until('the phone to say so', () =>
      frame('a').evaluate(() => document.querySelector('[role=status]').innerText));
    await until('it to open anew, twice', async () => (await wait('a')) === '2');
    const anew = await until('the phone to say why', () =>
      frame('a').evaluate(() => /opens anew/.test(document.querySelector('[role=status]').innerText)));
    await give();
    await ready();
    await page.removeScriptToEvaluateOnNewDocument(identifier);
    return { opened, told: told.includes('opening its database'), anew, after: await wait('a'), todos: (await screen('a')).todos.length };
  });

  // A refused token is a request that fails, and the browser says so: who starts over has ended what was under way.
  seen.faults = faults.filter((fault) => !fault.includes('status of 401'));
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error, faults);
  for (const one of page.frames()) console.error(one.url(), await one.evaluate(() => document.body.innerText).catch(String));
  process.exitCode = 1;
} finally {
  await browser.close();
}
