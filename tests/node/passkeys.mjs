// A passkey's life in a real browser: made, used, used again, refused, deleted.
//
// `node passkeys.mjs ADDRESS TOKEN`: the server's address on localhost, and the token of who is signed in.
// Prints what happened as one line of JSON.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { authenticator, open } from './browser.mjs';

const [address, token] = process.argv.slice(2);
const bundle = createRequire(import.meta.url).resolve('@simplewebauthn/browser');
const script = await readFile(bundle.replace(/(dist|esm|script).*$/, 'dist/bundle/index.umd.min.js'), 'utf8');

const { browser, page } = await open();
try {
  // The page lies on the server's own origin, as an app's page does.
  await page.setRequestInterception(true);
  page.on('request', (request) =>
    request.url() === `${address}/page`
      ? request.respond({ contentType: 'text/html', body: '<!doctype html><title>app</title>' })
      : request.continue()
  );
  await page.goto(`${address}/page`);
  await page.addScriptTag({ content: script });
  const device = await authenticator(page);

  const result = await page.evaluate(async (token) => {
    const { startRegistration, startAuthentication } = globalThis.SimpleWebAuthnBrowser;
    const call = async (method, path, body, bearer) => {
      const headers = bearer ? { authorization: `Bearer ${bearer}` } : {};
      if (body) headers['content-type'] = 'application/json';
      const answer = await fetch(`/v1/auth/passkeys${path}`, {
        method,
        headers,
        body: body && JSON.stringify(body)
      });
      const text = await answer.text();
      return { status: answer.status, body: text ? JSON.parse(text) : null };
    };
    const make = async (token) => {
      const begun = await call('POST', '/begin', null, token);
      const credential = await startRegistration({ optionsJSON: begun.body.publicKey });
      return call('POST', '', { credential, name: 'Phone' }, token);
    };
    const enter = async () => {
      const begun = await call('POST', '/sign-in/begin', {});
      const credential = await startAuthentication({ optionsJSON: begun.body.publicKey });
      return { credential, answer: await call('POST', '/sign-in', { credential }) };
    };
    globalThis.enter = enter;
    globalThis.call = call;
    const made = await make(token);
    const first = await enter();
    // The first token still says that its user is anonymous: it is good no longer.
    const stale = await call('GET', '', null, token);
    const fresh = first.answer.body.access_token;
    const twice = await make(fresh).then(
      () => 'made',
      (error) => error.name
    );
    const second = await enter();
    const replayed = await call('POST', '/sign-in', { credential: second.credential });
    const listed = await call('GET', '', null, fresh);
    return { made, stale, twice, first: first.answer, second: second.answer, replayed, listed };
  }, token);

  await device.session.send('WebAuthn.setUserVerified', {
    authenticatorId: device.authenticatorId,
    isUserVerified: false
  });
  result.unverified = await page.evaluate(() =>
    enter().then(
      ({ answer }) => answer.status,
      (error) => error.name
    )
  );
  await device.session.send('WebAuthn.setUserVerified', {
    authenticatorId: device.authenticatorId,
    isUserVerified: true
  });
  const kept = await device.session.send('WebAuthn.getCredentials', { authenticatorId: device.authenticatorId });
  result.resident = kept.credentials.map((one) => one.isResidentCredential);
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
}
