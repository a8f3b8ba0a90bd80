// The page at /docs in a real browser: on a phone and on a desk, searched, copied from, and without its script.

import { join } from 'node:path';
import { open } from './browser.mjs';

const { url, folder } = JSON.parse(process.env.SCENARIO);
const report = {};
const sideways = (page) => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
const shown = (page) =>
  page.$$eval('#side a[data-words]', (links) => links.filter((one) => one.checkVisibility({ visibilityProperty: true })).map((one) => one.hash));

const { browser, page } = await open({ viewport: { width: 1280, height: 900 } });
try {
  // Every breach of the policy counts, and every request that leaves this server.
  const elsewhere = [];
  page.on('request', (request) => request.url().startsWith(url) || elsewhere.push(request.url()));
  await page.goto(`${url}/docs`);
  report.operations = await page.$$eval('article', (all) => all.length);
  report.links = (await shown(page)).length;
  report.origin = await page.$eval('.origin', (place) => place.textContent);
  report.wide = await sideways(page);
  await page.screenshot({ path: join(folder, 'reference.png') });

  // With the keyboard: the search finds by field and by error, and Enter goes there.
  await page.keyboard.press('/');
  await page.keyboard.type('code_verifier');
  report.byField = await shown(page);
  await page.screenshot({ path: join(folder, 'reference-search.png') });
  await page.keyboard.press('Enter');
  report.went = await page.evaluate(() => location.hash);
  report.example = await page.$eval(`${report.went} pre code`, (code) => code.textContent);
  await page.keyboard.press('/');
  await page.keyboard.type('nothing is called this');
  await page.screenshot({ path: join(folder, 'reference-there.png') });
  report.nothing = [(await shown(page)).length, await page.$eval('#none', (said) => said.checkVisibility())];
  await page.keyboard.press('Escape');
  report.again = (await shown(page)).length;

  // On a phone, in the dark: the list is behind a button, and nothing scrolls sideways.
  await page.setViewport({ width: 360, height: 740, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
  await page.goto(`${url}/docs`);
  report.narrow = await sideways(page);
  report.closed = (await shown(page)).length;
  await page.click('#menu');
  await page.waitForFunction(() => document.getElementById('side').checkVisibility({ visibilityProperty: true }));
  report.opened = (await shown(page)).length;
  await page.keyboard.type('token');
  await page.screenshot({ path: join(folder, 'reference-phone-list.png') });
  await page.keyboard.press('Escape');
  await page.keyboard.press('Escape');
  await page.goto(`${url}/docs${report.went}`);
  await page.screenshot({ path: join(folder, 'reference-phone.png') });

  // Without its script it is whole.
  await page.setJavaScriptEnabled(false);
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(`${url}/docs`);
  report.plain = await page.$$eval('article', (all) => all.length);
  report.elsewhere = elsewhere;
  report.faults = page.faults;
  process.stdout.write(`report ${JSON.stringify(report)}\n`);
} catch (error) {
  console.error(error, JSON.stringify(report));
  process.exitCode = 1;
} finally {
  await browser.close();
}
process.exit();
