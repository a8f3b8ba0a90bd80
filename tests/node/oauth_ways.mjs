// Signing in on Lowtide's page with a passkey and with an outside provider: a certified client, a certified provider,
// a real browser with an authenticator in it. And the page on which what apps may do is seen and withdrawn.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import * as oidc from 'openid-client';
import { authenticator, open } from './browser.mjs';
import { mailbox } from './mailbox.mjs';

const { folder, given } = JSON.parse(process.env.SCENARIO);
const url = given.url;
const mail = await mailbox(given.smtp);
const bundle = createRequire(import.meta.url).resolve('@simplewebauthn/browser');
const library = await readFile(bundle.replace(/(dist|esm|script).*$/, 'dist/bundle/index.umd.min.js'), 'utf8');

const arrived = [];
const listener = createServer((request, response) => {
  if (!request.url.startsWith('/favicon')) arrived.push(request.url);
  response.setHeader('content-type', 'text/html');
  response.end('<!doctype html><link rel=icon href="data:,"><title>Back</title>Back in the app.');
});
await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
const home = `http://127.0.0.1:${listener.address().port}`;
const discover = (id) =>
  oidc.discovery(new URL(url), id, undefined, oidc.None(), { execute: [oidc.allowInsecureRequests] });

async function begin(config, more = {}) {
  const verifier = oidc.randomPKCECodeVerifier();
  const parameters = {
    redirect_uri: `${home}/cb`,
    scope: 'openid email offline_access',
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state: oidc.randomState(),
    nonce: oidc.randomNonce(),
    ...more
  };
  arrived.length = 0;
  const address = oidc.buildAuthorizationUrl(config, parameters).href;
  const end = () =>
    oidc.authorizationCodeGrant(config, new URL(arrived[0], home), {
      pkceCodeVerifier: verifier,
      expectedState: parameters.state,
      expectedNonce: parameters.nonce,
      idTokenExpected: true
    });
  return { address, end };
}

/** What the page says is wrong. */
const wrong = (page) => page.$eval('.bad[role=alert]', (said) => said.textContent);
/** What does not fit the window: nothing scrolls sideways, and every target can be hit with a thumb. */
const misfits = (page) =>
  page.evaluate(() => {
    const small = [...document.querySelectorAll('button, a.way, input:not([type=hidden])')]
      .filter((one) => one.checkVisibility())
      .filter((one) => one.getBoundingClientRect().height < 44)
      .map((one) => one.outerHTML);
    return document.documentElement.scrollWidth > innerWidth ? [...small, 'it scrolls sideways'] : small;
  });
const narrow = { width: 360, height: 740, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const report = {};
const { browser, page } = await open({ viewport: narrow });
let other;
try {
  const picture = (name, where = page) => where.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  const follow = (act, where = page) => Promise.all([where.waitForNavigation(), act()]);
  const app = await discover('app');
  const device = await authenticator(page);

  // A user with a passkey, made in the app.
  const api = async (path, body, token) => {
    const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
    const answer = await fetch(new URL(path, url), { method: 'POST', headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
    return answer.json();
  };
  const { flow_id } = await api('/v1/auth/email/start', { email: 'ann@example.com' });
  const ann = await api('/v1/auth/email/finish', { flow_id, code: await mail.code('ann@example.com') });
  await page.setBypassCSP(true);
  await page.goto(`${url}/v1/oauth/logout`);
  await page.addScriptTag({ content: library });
  await page.evaluate(async (token) => {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const begun = await (await fetch('/v1/auth/passkeys/begin', { method: 'POST', headers })).json();
    const credential = await globalThis.SimpleWebAuthnBrowser.startRegistration({ optionsJSON: begun.publicKey });
    const answer = await fetch('/v1/auth/passkeys', { method: 'POST', headers, body: JSON.stringify({ credential }) });
    if (!answer.ok) throw new Error(await answer.text());
  }, ann.access_token);
  await page.setBypassCSP(false);
  page.faults.length = 0;

  // The browser offers the passkey by itself: its user, who is simulated, takes it, and no button is pressed.
  const simulate = (enabled) =>
    device.session.send('WebAuthn.setAutomaticPresenceSimulation', { authenticatorId: device.authenticatorId, enabled });
  const offered = await begin(app);
  await page.goto(offered.address).catch(() => {});
  await page.waitForFunction((home) => location.href.startsWith(home), {}, home);
  report.offered = (await offered.end()).claims().sub === ann.user.id;

  // Whoever cannot be verified is told so, and stays.
  const verified = (isUserVerified) =>
    device.session.send('WebAuthn.setUserVerified', { authenticatorId: device.authenticatorId, isUserVerified });
  await verified(false);
  const refused = await begin(app, { prompt: 'login' });
  await page.goto(refused.address);
  await page.waitForSelector('#passkey:not([hidden])');
  await page.click('#passkey button');
  await page.waitForFunction(() => document.getElementById('passkey-said').textContent);
  report.unverified = [await page.$eval('#passkey-said', (said) => said.textContent), arrived.length];
  await picture('ways-unverified');
  await simulate(false);
  await verified(true);

  // With the button, under the page's policy.
  const first = await begin(app, { prompt: 'login' });
  report.policy = (await page.goto(first.address)).headers()['content-security-policy'];
  await page.waitForSelector('#passkey:not([hidden])');
  report.field = await page.$eval('input[type=email]', (field) => field.autocomplete);
  report.misfits = { light: await misfits(page) };
  await picture('ways-light');
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
  await picture('ways-dark');

  // With the keyboard alone.
  await simulate(true);
  await page.focus('#passkey button');
  await follow(() => page.keyboard.press('Enter'));
  const byPasskey = (await first.end()).claims();
  report.passkey = { ann: byPasskey.sub === ann.user.id, amr: byPasskey.amr };

  // With the outside provider, in another browser, which is asked to sign in anew; with no script on our page.
  const { page: second } = (other = await open({ viewport: narrow, javascript: false }));
  const outside = await begin(app, { prompt: 'login', max_age: '0', login_hint: 'ben' });
  await second.goto(outside.address);
  report.hidden = await second.$eval('#passkey', (form) => getComputedStyle(form).display);
  await picture('ways-no-script', second);
  // The other side says no first: the page is there again, for the same request.
  await follow(() => second.click('a.way'), second);
  await follow(() => second.click('a[href$=abort]'), second);
  report.declined = [await wrong(second), arrived.length];
  await follow(() => second.click('a.way'), second);
  report.elsewhere = new URL(second.url()).origin === given.issuer;
  // The hint went along.
  report.hint = await second.$eval('[name=login]', (field) => field.value);
  await second.type('[name=password]', 'anything');
  await follow(() => second.click('[type=submit]'), second);
  // It asks whether it may tell.
  if (arrived.length === 0) await follow(() => second.click('[type=submit]'), second);
  const tokens = await outside.end();
  report.outside = { email: (await oidc.fetchUserInfo(app, tokens.access_token, tokens.claims().sub)).email };
  report.way = arrived.length;

  // Somebody else's app, and the end of what it may do.
  const stranger = await discover('other');
  const third = await begin(stranger);
  await second.goto(third.address);
  await picture('consent', second);
  await follow(() => second.click('button[value=yes]'), second);
  const lent = await third.end();
  await second.goto(`${url}/v1/oauth/apps`);
  report.apps = await second.$$eval('article h2', (names) => names.map((name) => name.textContent));
  await picture('apps', second);
  report.misfits.apps = await misfits(second);
  const forms = await second.$$('article');
  for (const form of forms) {
    if ((await form.$eval('h2', (name) => name.textContent)) === 'Tide Tables')
      await follow(() => form.$('button').then((button) => button.click()), second);
  }
  report.withdrawn = await second.$eval('[role=status]', (said) => said.textContent);
  report.left = await second.$$eval('article h2', (names) => names.map((name) => name.textContent));
  await picture('withdrawn', second);
  report.refused = await oidc.refreshTokenGrant(stranger, lent.refresh_token).then(() => 'nothing', (error) => error.error);
  report.kept = Boolean(await oidc.refreshTokenGrant(app, tokens.refresh_token));
  report.faults = [...page.faults, ...second.faults].filter(
    // The outside provider's own page wants a font from elsewhere.
    (fault) => !fault.includes('status of 400') && !fault.includes('ERR_NAME_NOT_RESOLVED')
  );
  process.stdout.write(`report ${JSON.stringify(report)}\n`);
} catch (error) {
  console.error(error, JSON.stringify(report), page.url(), await page.content().catch(() => ''));
  for (const one of (await other?.browser.pages()) ?? []) console.error(one.url(), await one.content());
  process.exitCode = 1;
} finally {
  await browser.close();
  await other?.browser.close();
  listener.close();
  mail.close();
}
process.exit();
