// The program of the page on OAuth, run as it is printed, and its user in a browser.

import { spawn } from 'node:child_process';
import { open, typed } from './browser.mjs';
import { mailbox } from './mailbox.mjs';

const { url, given } = JSON.parse(process.env.SCENARIO);
const mail = await mailbox(given.smtp);
const program = spawn(process.execPath, ['--input-type=module', '-e', given.program], {
  env: { ...process.env, SERVER: url },
  stdio: ['ignore', 'pipe', 'inherit']
});
const ended = new Promise((resolve) => program.once('exit', resolve));
let said = '';
const opened = new Promise((resolve) => {
  program.stdout.on('data', (text) => {
    said += text;
    const found = /^Open (\S+)\n/m.exec(said);
    if (found) resolve(found[1]);
  });
});
const { browser, page } = await open({ javascript: false });
try {
  await page.goto(await opened);
  for (const answer of [() => 'ann@example.com', () => mail.code('ann@example.com')]) {
    await typed(page, await answer());
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  }
  const code = await ended;
  process.stdout.write(`report ${JSON.stringify({ code, said: said.split('\n').slice(1, 3) })}\n`);
} finally {
  await browser.close();
  program.kill();
  mail.close();
}
process.exit();
