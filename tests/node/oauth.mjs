// An app that signs its users in through Lowtide's pages, with a certified client and a real browser.

import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import * as oidc from 'openid-client';
import { open, typed } from './browser.mjs';
import { mailbox } from './mailbox.mjs';

const { url, folder, given } = JSON.parse(process.env.SCENARIO);
const mail = await mailbox(given.smtp);

// Where the browser comes back to: an address of this machine, on a port that is free (RFC 8252).
const arrived = [];
const listener = createServer((request, response) => {
  if (!request.url.startsWith('/favicon')) arrived.push(request.url);
  response.setHeader('content-type', 'text/html');
  response.end('<!doctype html><link rel=icon href="data:,"><title>Back</title>Back in the app.');
});
await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
const home = `http://127.0.0.1:${listener.address().port}`;
const back = `${home}/cb`;

const discover = (id, authentication = oidc.None(), metadata) =>
  oidc.discovery(new URL(url), id, metadata, authentication, { execute: [oidc.allowInsecureRequests] });

/** One sign-in: `visit` takes the browser from the request's address to its end. */
async function signIn(config, visit, { scope = 'openid email offline_access', push, DPoP, ...more } = {}) {
  const verifier = oidc.randomPKCECodeVerifier();
  const parameters = {
    redirect_uri: back,
    scope,
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state: oidc.randomState(),
    nonce: oidc.randomNonce(),
    ...more
  };
  const build = push ? oidc.buildAuthorizationUrlWithPAR : oidc.buildAuthorizationUrl;
  const address = await build(config, parameters, { DPoP });
  arrived.length = 0;
  await visit(address.href);
  if (arrived.length !== 1) throw new Error(`the browser came back ${arrived.length} times`);
  return oidc.authorizationCodeGrant(
    config,
    new URL(arrived[0], home),
    {
      pkceCodeVerifier: verifier,
      expectedState: parameters.state,
      expectedNonce: parameters.nonce,
      idTokenExpected: true
    },
    undefined,
    { DPoP }
  );
}

/** What a promise is refused with. */
const refusal = (promise) =>
  promise.then(
    () => 'nothing',
    (error) => error.error ?? error.cause?.error ?? error.code ?? String(error)
  );

/** One request of the app itself. */
async function api(path, body, token) {
  const response = await fetch(new URL(path, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body)
  });
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  return response.json();
}

/** What an authenticator app shows now (RFC 6238). */
function shown(secret) {
  const bits = [...secret].map((c) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)));
  const mac = createHmac('sha1', key).update(step).digest();
  return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

const report = {};
const { browser, page } = await open({ javascript: false });
try {
  const press = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);
  const picture = (name) => page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });

  const byCode = async (address) => {
    await page.goto(address);
    await picture('sign-in');
    // With the keyboard alone: the field has the focus.
    await typed(page, 'ann@example.com');
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
    await picture('code');
    await typed(page, await mail.code('ann@example.com'));
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  };
  const silently = (address) => page.goto(address);

  const app = await discover('app');
  const first = await signIn(app, byCode);
  const { sub } = first.claims();
  report.first = { type: first.token_type, claims: Object.keys(first.claims()).sort(), scope: first.scope };
  report.userinfo = await oidc.fetchUserInfo(app, first.access_token, sub);

  // One refresh after the other; the one before is not needed any more.
  const second = await oidc.refreshTokenGrant(app, first.refresh_token);
  const third = await oidc.refreshTokenGrant(app, second.refresh_token);
  report.refreshed = [second, third].map((tokens) => tokens.claims().sub === sub);
  report.rotated = new Set([first, second, third].map((tokens) => tokens.refresh_token)).size;

  // Signed in already: nobody is asked, and the request was pushed.
  const pushed = await signIn(app, silently, { push: true, prompt: 'none' });
  report.pushed = pushed.claims().sub === sub;

  // A key of the device, and a clock that is ten minutes slow.
  const DPoP = oidc.getDPoPHandle(app, await oidc.randomDPoPKeyPair('ES256'));
  const slow = await discover('app', oidc.None(), { [oidc.clockSkew]: -600 });
  const late = oidc.getDPoPHandle(slow, await oidc.randomDPoPKeyPair('EdDSA'));
  report.bound = [];
  for (const [config, handle] of [[app, DPoP], [slow, late]]) {
    const tokens = await signIn(config, silently, { prompt: 'none', push: true, DPoP: handle, scope: 'openid api offline_access' });
    const again = await oidc.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP: handle });
    const who = await oidc.fetchUserInfo(config, again.access_token, sub, { DPoP: handle });
    const address = new URL('/write-checkpoint2.json?client_id=phone', url);
    const used = await oidc.fetchProtectedResource(config, again.access_token, address, 'GET', undefined, undefined, { DPoP: handle });
    const stolen = await fetch(address, { headers: { authorization: `Bearer ${again.access_token}` } });
    const thief = oidc.getDPoPHandle(app, await oidc.randomDPoPKeyPair('ES256'));
    report.bound.push({
      type: tokens.token_type,
      who: who.sub === sub,
      used: used.status,
      stolen: stolen.status,
      thief: await refusal(oidc.refreshTokenGrant(app, again.refresh_token, undefined, { DPoP: thief })),
      alone: await refusal(oidc.refreshTokenGrant(app, again.refresh_token))
    });
  }

  // Somebody else's app: the user is asked, and it reaches no more than they allow.
  const other = await discover('other');
  const consented = await signIn(other, async (address) => {
    await page.goto(address);
    await picture('consent');
    report.wants = await page.$$eval('li', (items) => items.length);
    await press('button[value=yes]');
  });
  const records = await fetch(new URL('/write-checkpoint2.json?client_id=phone', url), {
    headers: { authorization: `Bearer ${consented.access_token}` }
  });
  report.other = { sub: consented.claims().sub === sub, records: records.status };
  report.refused = await refusal(
    signIn(other, async (address) => {
      await page.goto(address);
      await press('button[value=no]');
    }, { prompt: 'consent' })
  );

  // A server's client looks at its tokens, and at nobody else's.
  const server = await discover('server', oidc.ClientSecretBasic(given.secret));
  const own = await signIn(server, async (address) => {
    await page.goto(address);
    await press('button[value=yes]');
  });
  const look = async (token) => {
    const { active, client_id, sub: subject } = await oidc.tokenIntrospection(server, token);
    return { active, client_id, sub: subject === sub };
  };
  report.introspected = { own: await look(own.access_token), refresh: await look(own.refresh_token), foreign: await look(third.access_token) };

  // The end of one session, and of the browser's.
  await oidc.tokenRevocation(app, pushed.refresh_token);
  report.revoked = await refusal(oidc.refreshTokenGrant(app, pushed.refresh_token));
  report.others = (await oidc.refreshTokenGrant(app, third.refresh_token)).claims().sub === sub;
  arrived.length = 0;
  await page.goto(oidc.buildEndSessionUrl(app, { id_token_hint: third.id_token, post_logout_redirect_uri: `${home}/bye`, state: 'left' }).href);
  report.left = arrived[0];
  report.after = {
    silent: await refusal(signIn(app, silently, { prompt: 'none' })),
    refresh: await refusal(oidc.refreshTokenGrant(app, third.refresh_token))
  };

  // Another user, with a password and an authenticator app.
  const { flow_id } = await api('/v1/auth/email/start', { email: 'ben@example.com' });
  const password = 'seven herons walk on mud';
  const made = await api('/v1/auth/password/set', { flow_id, code: await mail.code('ben@example.com'), password });
  const { secret } = await api('/v1/auth/me/second-factor', undefined, made.access_token);
  const { recovery_codes } = await api('/v1/auth/me/second-factor/confirm', { code: shown(secret) }, made.access_token);
  const byPassword = await signIn(app, async (address) => {
    await page.goto(address);
    await page.type('input[type=email]', 'ben@example.com');
    await page.click('summary');
    await picture('password');
    await page.type('input[type=password]', 'six herons walk on mud');
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
    report.wrong = await page.$eval('[role=alert]', (said) => said.textContent);
    await page.type('input[type=password]', password);
    await press('details button');
    await picture('second');
    await typed(page, '000000');
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
    report.again = await page.$eval('[role=alert]', (said) => said.textContent);
    await typed(page, recovery_codes[0]);
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  });
  report.second = { amr: byPassword.claims().amr, ben: byPassword.claims().sub === made.user.id };
  report.faults = page.faults.filter((fault) => !fault.includes('status of 400'));
  process.stdout.write(`report ${JSON.stringify(report)}\n`);
} catch (error) {
  console.error(error, page.url(), await page.content().catch(() => ''));
  process.exitCode = 1;
} finally {
  await browser.close();
  listener.close();
  mail.close();
}
process.exit();
