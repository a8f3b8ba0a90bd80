// The reader of the tutorial for the browser: serves the page with Vite, and does in Chromium what the text says.

import { spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { open } from './browser.mjs';
import { ask, given, scenario, sleep } from './harness.mjs';
import { code } from './outbox.mjs';

const WAIT = 30_000;
const { folder, files, firstLines, commands, shows, gone } = given;
const running = [];

/** Starts a server of the page, and gives its address. */
async function serve(command) {
  const vite = spawn('sh', ['-c', `exec ${command}`], { cwd: folder, detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  running.push(vite);
  let said = '';
  vite.stdout.on('data', (chunk) => (said += chunk));
  for (const end = Date.now() + WAIT; Date.now() < end && vite.exitCode === null; await sleep(30)) {
    const found = /http:\/\/localhost:\d+\//.exec(stripVTControlCharacters(said));
    if (found) return { address: found[0], stop: () => process.kill(-vite.pid) };
  }
  throw new Error(`no address:\n${said}`);
}

async function run(command) {
  const ended = spawn('sh', ['-c', command], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  const status = await new Promise((resolve) => ended.on('exit', resolve));
  if (status !== 0) throw new Error(`${command} ended with ${status}`);
}

async function put(name) {
  await mkdir(dirname(join(folder, name)), { recursive: true });
  await writeFile(join(folder, name), files[name]);
}

async function addFirstLine() {
  const main = join(folder, 'src/main.ts');
  await writeFile(main, firstLines.shift() + (await readFile(main, 'utf8')));
}

/** Waits until the page shows these lines, in this order and with no other line of the list between them. */
async function sees(page, text) {
  const lines = text.trim().split('\n');
  const items = (all) => all.filter((line) => line.includes('×'));
  let seen = [];
  for (const end = Date.now() + WAIT; Date.now() < end; await sleep(50)) {
    seen = await page.evaluate(() => document.body.innerText.split('\n').map((line) => line.trim())).catch(() => []);
    const listed = JSON.stringify(items(seen)) === JSON.stringify(items(lines)) || items(lines).length === 0;
    if (listed && lines.every((line) => seen.some((one) => one.startsWith(line)))) return;
  }
  throw new Error(`the page was to show\n${text}and shows\n${seen.join('\n')}`);
}

async function add(page, title) {
  await page.waitForSelector('#add:not([inert])');
  await page.type('#add input', title);
  await page.keyboard.press('Enter');
}

/** Clicks. A list is drawn anew with each change: what was found may be gone by then, and is looked for again. */
async function press(page, selector) {
  for (const end = Date.now() + WAIT; ; )
    try {
      return await page.click(selector);
    } catch (error) {
      if (!String(error).includes('detached') || Date.now() > end) throw error;
    }
}

async function more(page, title) {
  await press(page, `::-p-aria(one more ${title})`);
}

async function signIn(page, address) {
  await page.waitForSelector('#account:not([hidden])');
  await page.type('#account input', address);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#account input[placeholder="The code from the mail"]');
  await page.type('#account input', await code(address));
  await page.keyboard.press('Enter');
}

await scenario(async () => {
  const faults = [];
  const browsers = [];
  const begin = async () => {
    const { browser, page } = await open({ viewport: { width: 480, height: 560 } });
    browsers.push(browser);
    page.on('pageerror', (error) => faults.push(String(error)));
    return page;
  };
  try {
    const first = await begin();
    // 2, 3: a list, without a network, too.
    for (const name of ['vite.config.mjs', 'index.html', 'src/app.ts', 'src/main.ts']) await put(name);
    const dev = await serve(commands.page);
    await first.goto(dev.address);
    await first.waitForFunction(() => document.getElementById('state').textContent === 'all sent');
    await add(first, 'Milk');
    await sees(first, shows[0]);
    await ask('stop');
    await add(first, 'Bread');
    await more(first, 'Milk');
    await sees(first, shows[1]);
    await first.reload();
    await sees(first, shows[1]);
    await ask('start');
    await sees(first, 'all sent');

    // 4: who is a guest becomes somebody, and stays the same user.
    await put('src/account.ts');
    await addFirstLine();
    await signIn(first, 'ann@example.com');
    await sees(first, shows[2]);
    await first.waitForSelector('#account', { hidden: true });

    // 5: a second device, and a merge.
    const second = await begin();
    await second.goto(dev.address);
    await second.waitForFunction(() => document.getElementById('state').textContent === 'all sent');
    await add(second, 'Eggs');
    await sees(second, '1 × Eggs\nall sent');
    await signIn(second, 'ann@example.com');
    for (const page of [first, second]) await sees(page, shows[3]);
    await ask('stop');
    for (const page of [first, second]) await more(page, 'Milk');
    await press(second, 'li:first-child input');
    await sees(second, '1 × Bread\n1 × Eggs\n3 × Milk\noffline, 2 to send');
    await ask('start');
    for (const page of [first, second]) await sees(page, shows[4]);
    for (const page of [first, second]) await page.waitForSelector('li.done');

    // 6: a refusal is taken back, and told.
    await add(first, 'A title that is much longer than it may be, by far');
    await sees(first, `${shows[5]}${shows[4]}`);

    // 7: a sign-out asks while something was not sent, and leaves nothing behind.
    await ask('stop');
    await more(second, 'Milk');
    await sees(second, '1 × Bread\n1 × Eggs\n5 × Milk\noffline, 1 to send');
    const asked = [];
    const answers = [false, true];
    second.on('dialog', (dialog) => {
      asked.push(dialog.message());
      void (answers.shift() ? dialog.accept() : dialog.dismiss());
    });
    await press(second, '#leave');
    while (asked.length < 1) await sleep(20);
    await sees(second, '1 × Bread\n1 × Eggs\n5 × Milk\nSigned in as ann@example.com');
    const reloaded = second.waitForNavigation();
    await press(second, '#leave');
    await reloaded;
    await ask('start');
    await second.reload();
    await sees(second, 'all sent');
    const left = await second.evaluate(() => document.body.innerText);
    if (left.includes(gone.trim()) || left.includes('ann@')) throw new Error(`it still shows ${left}`);
    await first.waitForFunction(() => document.getElementById('state').textContent === 'all sent');
    await sees(first, shows[4]);

    // 8: the page itself, without anything behind it.
    dev.stop();
    await put('public/sw.js');
    await addFirstLine();
    const [build, preview] = commands.built.trim().split('\n');
    await run(build);
    const built = await serve(preview);
    await second.goto(built.address);
    await second.waitForFunction(() => document.getElementById('state').textContent === 'all sent');
    await second.evaluate(() => navigator.serviceWorker.ready);
    await second.reload();
    await second.waitForFunction(() => document.getElementById('state').textContent === 'all sent');
    built.stop();
    await ask('stop');
    await second.reload();
    await add(second, 'Salt');
    await sees(second, '1 × Salt\noffline, 1 to send');
    return { asked: asked.length, faults };
  } finally {
    for (const browser of browsers) await browser.close();
    for (const vite of running) if (vite.exitCode === null) process.kill(-vite.pid);
  }
});
