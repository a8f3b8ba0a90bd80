// Accounts in a browser: a guest who writes without a network, signs in to the account they have, and signs out.

import { open } from './browser.mjs';
import { scenario, sleep, url } from './harness.mjs';
import { code } from './outbox.mjs';
import { site } from './web/site.mjs';

const WAIT = 20_000;
const NOTE = 'INSERT INTO note(id, user_id, body) VALUES (?, ?, ?)';

/** A tab on a site of its own: with its own network, and, as another origin, its own session and data. */
async function tab(browser, app) {
  const page = await browser.newPage();
  await page.goto(app.address);
  await begin(page);
  return page;
}

async function begin(page) {
  await page.waitForFunction(() => window.open_app);
  await page.evaluate(() => window.open_app('app.db'));
}

const write = (page, id, body) =>
  page.evaluate((sql, id, body) => window.db.execute(sql, [id, window.session.user.id, body]), NOTE, id, body);
const notes = (page) => page.evaluate(() => window.db.getAll('SELECT id, user_id FROM note ORDER BY id'));

async function shows(page, ids) {
  let seen;
  for (const end = Date.now() + WAIT; Date.now() < end; await sleep(30)) {
    seen = (await notes(page)).map(({ id }) => id);
    if (JSON.stringify(seen) === JSON.stringify(ids)) return;
  }
  throw new Error(`expected ${ids}, and there are ${seen}`);
}

/** Prove the mailbox of dora in this tab. */
async function prove(page) {
  const flow = await page.evaluate(() => window.session.signIn.startEmail('dora@example.com'));
  const number = await code('dora@example.com');
  return page.evaluate((flow, number) => window.session.signIn.finishEmail(flow, number), flow, number);
}

await scenario(async () => {
  const report = {};
  const [home, away] = [await site(url), await site(url)];
  const { browser } = await open();
  try {
    const desk = await tab(browser, home);
    await desk.evaluate(() => window.session.signIn.anonymous());
    report.upgraded = (await prove(desk)).outcome;
    await desk.evaluate(() => window.lowtide.connect());
    await write(desk, 'desk', 'From the desk');

    // A guest in another browser, whose network goes; the page is loaded anew, and the change still waits.
    const phone = await tab(browser, away);
    await phone.evaluate(() => window.session.signIn.anonymous());
    await phone.evaluate(() => window.lowtide.connect());
    await phone.evaluate(() => window.db.waitForFirstSync());
    away.cut();
    await write(phone, 'offline', 'Written without a network');
    await phone.reload();
    await begin(phone);
    await phone.evaluate(() => window.lowtide.connect());
    report.waits = await phone.evaluate(async () => [await window.lowtide.waiting(), window.session.user.anonymous]);

    // The account that there is already: what waited goes out as its own.
    away.mend();
    const signed = await prove(phone);
    report.signed = [signed.status, signed.user.email, signed.guest !== null];
    report.before = (await notes(desk)).map(({ id }) => id);
    await phone.evaluate(() => window.session.signIn.merge());
    await phone.evaluate(() => window.lowtide.connect());
    await shows(phone, ['desk', 'offline']);
    await shows(desk, ['desk', 'offline']);
    report.owners = new Set((await notes(desk)).map(({ user_id }) => user_id)).size;

    // Nothing that was not sent is thrown away by a sign-out that did not say so.
    away.cut();
    await write(phone, 'late', 'Not sent yet');
    report.kept = await phone.evaluate(() => window.lowtide.signOut().catch((error) => error.code));
    await phone.evaluate(() => window.lowtide.signOut({ discard: true }));
    report.out = await phone.evaluate(() => window.session.state.status);
    report.left = await notes(phone);
    report.desk = (await notes(desk)).map(({ id }) => id);
    return report;
  } finally {
    await browser.close();
  }
});
