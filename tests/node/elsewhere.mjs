// A guest signs in with another provider: out to the browser, back into an app that was closed in between.

import { open as browse } from './browser.mjs';
import { given, scenario } from './harness.mjs';
import { network, open } from './people.mjs';

const BACK = 'https://app.example.com/in';
const FINISH = '/v1/auth/oidc/finish';

await scenario(async () => {
  const { browser, page } = await browse();
  try {
    let back = null;
    await page.setRequestInterception(true);
    page.on('request', (request) => {
      if (!request.url().startsWith(BACK)) return request.continue();
      back = request.url();
      return request.respond({ contentType: 'text/html', body: 'back in the app' });
    });
    const press = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);

    const guest = await open('guest');
    const { user } = await guest.signIn.anonymous();
    // Said no there: an error with the provider's code, and nobody is signed out.
    await page.goto((await guest.signIn.startUpstream('acme', BACK)).url);
    await press('a[href$=abort]');
    const declined = [await guest.signIn.finishUpstream(back).catch(({ code }) => code), guest.state.status];

    const { url } = await guest.signIn.startUpstream('acme', BACK, 'ben');
    guest.close(); // while the browser is in front
    back = null;
    await page.goto(url);
    const hint = await page.$eval('[name=login]', (field) => field.value);
    await page.type('[name=password]', 'anything');
    await press('[type=submit]');
    if (!back) await press('[type=submit]'); // it asks whether it may tell

    const net = network();
    net.between = ({ path }) => {
      if (path !== FINISH || net.count(FINISH) > 1) return;
      throw new TypeError('fetch failed'); // the answer is lost, and asked for again
    };
    const again = await open('guest', net);
    const done = await again.signIn.finishUpstream(back);
    const twice = await again.signIn.finishUpstream(back).catch(({ code }) => code);
    const ways = (await again.account.identities()).map(({ provider }) => provider);
    again.close();
    return {
      declined,
      hint,
      issuer: given.issuer,
      outcome: done.outcome,
      same: done.user.id === user.id,
      email: done.user.email,
      asked: net.count(FINISH),
      twice,
      ways
    };
  } finally {
    await browser.close();
  }
});
