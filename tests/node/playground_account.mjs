// Accounts in the playground, by what is on its page: `node playground_account.mjs ADDRESS`.
//
// Prints what was seen as one line of JSON; what it should be is the test's to say.

import { open, until } from './browser.mjs';

const [address] = process.argv.slice(2);
const EMMA = 'emma@example.com';
const FRED = 'fred@example.com';
const seen = {};
const { browser, page } = await open({ viewport: { width: 1440, height: 900 } });

const frame = (id) => page.frames().find((one) => one.url().endsWith(`/phone/${id}`));
/** What a phone shows, and what its database holds; of `id`, or of the page that is given. */
const screen = (where) =>
  (typeof where === 'string' ? frame(where) : where).evaluate(async () => {
    const { holder, todos } = window.phone;
    const { waiting, connected } = await window.phone.report();
    const sql = `SELECT group_concat(d) AS held FROM (SELECT data AS d FROM ps_oplog UNION ALL SELECT data FROM ps_crud
      UNION ALL SELECT data FROM ps_data__note)`;
    const { held } = await todos.db.get(sql);
    return {
      who: holder.who,
      notes: todos.screen.notes.map(({ text }) => text),
      todos: todos.screen.todos.length,
      users: [...new Set(todos.screen.notes.map(({ user }) => user))],
      rows: await holder.rows(),
      held: held ?? '',
      waiting,
      connected,
      sheet: document.querySelector('dialog')?.ariaLabel ?? null,
      focus: document.activeElement?.innerText?.trim() ?? '',
      shown: document.body.innerText
    };
  });
const holds = (what, id, right) => until(what, async () => right(await screen(id)) && screen(id));
/** The server's side of the page, once it shows `text`: it looks a few times a second. */
const server = (text) =>
  until(`the server to show ${text}`, async () => {
    const shown = await page.$eval('.server-view', (view) => view.innerText);
    return shown.includes(text) && shown;
  });
const press = (id, word) =>
  until(`the button ${word} on ${id}`, () =>
    frame(id).evaluate((word) => {
      const found = [...document.querySelectorAll('button')].find((one) => one.innerText.trim() === word && !one.disabled);
      found?.click();
      return found !== undefined;
    }, word));
const air = (id, off) => flip(id, 'Airplane', off);
/** Have the switch of this name on, or off. */
const flip = (id, name, on) =>
  page.evaluate(
    (id, name, on) => {
      const found = [...document.querySelectorAll(`#place-${id} .switch`)].find((one) => one.innerText.trim() === name);
      if (found.ariaPressed !== String(on)) found.click();
    },
    id,
    name,
    on
  );
const offline = async (id) => {
  await air(id, true);
  await holds(`${id} to be offline`, id, ({ connected }) => !connected);
};
const online = async (id) => {
  await air(id, false);
  await holds(`${id} to be online`, id, ({ connected }) => connected);
};
const choose = (id, user) => page.select(`#place-${id} label:nth-of-type(2) select`, user);
const write = async (id, text) => {
  const before = (await screen(id)).notes.length;
  await frame(id).waitForSelector('.own .add input');
  await frame(id).type('.own .add input', text);
  await frame(id).click('.own .add button');
  await holds(`${text} on ${id}`, id, ({ notes }) => notes.length > before);
};
const sent = (id) => holds(`${id} to have sent`, id, ({ waiting, connected }) => waiting === 0 && connected);
/** The sheets have the focus where it is needed: Enter is all that is pressed. */
const signIn = async (id, email) => {
  await press(id, 'Sign in …');
  const inside = frame(id);
  await inside.waitForSelector('dialog input[type=email]');
  await inside.$eval('dialog input', (input) => input.select());
  await inside.type('dialog input', email);
  await page.keyboard.press('Enter');
  await until('the code of the outbox', () => inside.$eval('dialog .code', (input) => input.value.length === 8));
  await page.keyboard.press('Enter');
};
const guest = async (id) => {
  await choose(id, 'account');
  await until(`${id} to be a guest's`, async () => (await screen(id)).who.kind === 'guest');
  return sent(id);
};
const named = (email) => ({ who, sheet }) => who.email === email && sheet === null;

try {
  await page.goto(`${address}/playground`);
  await until('three phones', () => page.evaluate(() => document.querySelectorAll('.signal.on').length === 3));

  // Emma begins as a guest, and proves a mailbox that nobody has: her id stays.
  const first = await guest('a');
  await write('a', 'Passport');
  await sent('a');
  seen.asGuest = await server('Passport');
  await signIn('a', EMMA);
  await holds('emma', 'a', named(EMMA));
  await sent('a');
  seen.upgraded = { before: first.who, after: await screen('a') };

  // A guest on another phone writes with a network and without, and the page is loaded anew.
  seen.guest = (await guest('b')).who;
  await write('b', 'Sunscreen');
  await sent('b');
  await server('Sunscreen');
  await offline('b');
  await write('b', 'Torch');
  await page.reload();
  await until('the page', async () => (await screen('b')).notes.length === 2 && (await screen('a')).connected);
  seen.reloaded = { guest: await screen('b'), emma: await screen('a'), server: await server('Sunscreen') };

  // She signs in to the account that there is, before the queue is sent. Until she answers, nothing is.
  await frame('b').evaluate(() => window.phone.loseUploads(true));
  await online('b');
  await signIn('b', EMMA);
  await holds('the question', 'b', ({ sheet }) => sheet === 'Bring it along?');
  await frame('b').evaluate(() => window.phone.loseUploads(false));
  const tries = await frame('b').evaluate(() => window.phone.sent().length);
  await page.keyboard.press('Escape'); // is no answer
  await page.reload(); // and neither is this
  await holds('the question again', 'b', ({ sheet, waiting }) => sheet === 'Bring it along?' && waiting > 0);
  await holds('emma to be back', 'a', ({ connected }) => connected);
  const uploads = await frame('b').evaluate(() => window.phone.sent().filter(({ path, fate }) => path === '/v1/sync/batches' && fate === 'answered').length);
  seen.asked = { tries, uploads, phone: await screen('b'), other: await screen('a'), server: await server('Sunscreen') };
  await page.keyboard.press('Enter'); // what has the focus brings it along
  const three = ({ notes, waiting }) => notes.length === 3 && waiting === 0;
  await holds('the notes on b', 'b', three);
  await holds('the notes on a', 'a', three);
  await until('the server to have them', async () => (await server('Torch')).split('emma').length > 3);
  seen.merged = { a: await screen('a'), b: await screen('b'), c: await screen('c'), server: await server('Torch') };

  // The account is let into the team, and put out of it.
  const team = (count) => Promise.all([...'ab'].map((id) => holds(`${count} to-dos on ${id}`, id, ({ todos }) => todos === count)));
  await flip('a', 'Not in team', false);
  seen.inTeam = await team(4);
  await flip('a', 'Revoke', true);
  seen.revoked = await team(0);

  // Signing out with a change unsent.
  await offline('b');
  await write('b', 'Matches');
  await press('b', 'Sign out');
  seen.unsent = await holds('the question', 'b', ({ sheet }) => sheet === 'Sign out?');
  await press('b', 'Stay');
  seen.stayed = await holds('her to stay', 'b', named(EMMA));
  await press('b', 'Sign out');
  await press('b', 'Send, then sign out');
  seen.failed = await holds('what could not be sent', 'b', ({ shown }) => shown.includes('Not everything could be sent'));
  await press('b', 'Throw away and sign out');
  await holds('nobody', 'b', ({ who, sheet, shown }) => who.kind === 'nobody' && sheet === null && shown.includes('rows'));
  seen.thrown = await screen('b');

  // Whoever is next sees nothing of the one before; what they did not send is sent before they go.
  await air('b', false);
  await signIn('b', FRED);
  await holds('fred', 'b', named(FRED));
  seen.fred = await sent('b');
  await write('b', 'Rope');
  await sent('b');
  await frame('b').evaluate(() => window.phone.loseUploads(true));
  await write('b', 'Map');
  await press('b', 'Sign out');
  await holds('the question', 'b', ({ sheet }) => sheet === 'Sign out?');
  await frame('b').evaluate(() => window.phone.loseUploads(false));
  await press('b', 'Send, then sign out');
  await holds('nobody', 'b', ({ who, sheet, rows }) => who.kind === 'nobody' && sheet === null && rows === 0);
  seen.signedOut = await frame('b').evaluate(() => window.phone.sent().filter(({ path }) => path === '/v1/auth/sign-out').at(-1));
  await server('Map');
  seen.emmaThen = await screen('a');

  // A guest whose notes are left behind.
  await press('b', 'Begin as a guest');
  await sent('b');
  seen.guestAgain = await screen('b');
  await offline('b');
  await write('b', 'Secret');
  await frame('b').evaluate(() => window.phone.loseUploads(true));
  await online('b');
  await signIn('b', EMMA);
  await holds('the question', 'b', ({ sheet }) => sheet === 'Bring it along?');
  await frame('b').evaluate(() => window.phone.loseUploads(false));
  await press('b', 'Leave it behind');
  await holds('emma', 'b', three);
  seen.left = { b: await screen('b'), a: await screen('a'), server: await server('Map') };

  // Two tabs: what one signs out of, the other shows no more.
  const tab = await browser.newPage();
  tab.on('pageerror', (error) => page.faults.push(String(error)));
  await tab.goto(`${address}/playground/phone/b`);
  await until('the second tab', async () => (await screen(tab)).notes.length === 3);
  await page.bringToFront();
  await press('b', 'Sign out');
  await holds('nobody', 'b', ({ who, rows }) => who.kind === 'nobody' && rows === 0);
  seen.tab = await until('nobody in the second tab', async () => (await screen(tab)).shown.includes('has 0 rows') && screen(tab));
  await tab.close();

  // Everything as at first.
  await page.evaluate(() => [...document.querySelectorAll('button')].find((one) => one.innerText === 'Start over').click());
  await page.waitForNavigation();
  await until('three phones', () => page.evaluate(() => document.querySelectorAll('.signal.on').length === 3));
  seen.over = { guest: await guest('a'), server: await server('Firewood'), kept: await page.evaluate(() => Object.keys(localStorage).filter((name) => name.endsWith('b-session'))) };

  // A refused token is a request that fails, and the browser says so.
  seen.faults = page.faults.filter((fault) => !fault.includes('status of 401'));
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error, page.faults);
  for (const one of page.frames()) console.error(one.url(), await one.evaluate(() => document.body.innerText).catch(String));
  process.exitCode = 1;
} finally {
  await browser.close();
}
