// A real browser, for pages and passkeys: Chromium without a window.
//
// `const { browser, page } = await open()`; close the browser in `finally`. What a page does wrong (a script
// error, a breach of its Content-Security-Policy, a request that fails) is in `page.faults`.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

const PHONE = { width: 390, height: 844, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

/** A browser with one page, as wide as a phone unless `viewport` says otherwise. */
export async function open({ viewport = PHONE, javascript = true, args = [] } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'lowtide-browser-'));
  const browser = await puppeteer.launch({
    executablePath: await chromium.executablePath(),
    args: [...chromium.args, '--no-sandbox', ...args],
    defaultViewport: viewport,
    headless: 'shell',
    userDataDir: folder
  });
  browser.once('disconnected', () => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  const page = (await browser.pages())[0] ?? (await browser.newPage());
  await page.setJavaScriptEnabled(javascript);
  page.setDefaultTimeout(20_000);
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') page.faults.push(message.text());
  });
  return { browser, page };
}

/** Wait until `look` gives something true, and give it. */
export async function until(what, look, seconds = 150) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await look().catch(() => null);
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
}

/** Types into the field that the page itself has given the focus. */
export async function typed(page, text) {
  await page.waitForSelector('input:focus');
  await page.keyboard.type(text);
}

/** A virtual authenticator (WebAuthn) in `page`: a phone that verifies its user, unless `changed` says not. */
export async function authenticator(page, changed = {}) {
  const session = await page.createCDPSession();
  await session.send('WebAuthn.enable');
  const { authenticatorId } = await session.send('WebAuthn.addVirtualAuthenticator', {
    options: {
      protocol: 'ctap2',
      transport: 'internal',
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: true,
      ...changed
    }
  });
  return { session, authenticatorId };
}
