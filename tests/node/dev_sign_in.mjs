// A newcomer's first hour: `lowtide dev` as it comes, and every way in whose messages it shows instead of sending them.

import { phone, scenario, sleep, url } from './harness.mjs';
import { code } from './outbox.mjs';
import { open } from './people.mjs';
import { totp } from './totp.mjs';

const PASSWORD = 'seven grey herons wait';
const WAIT = 20_000;

await scenario(async () => {
  const report = {};

  const guest = await open('guest');
  await guest.signIn.anonymous();
  const flow = await guest.signIn.startEmail('ann@example.com');
  const upgraded = await guest.signIn.finishEmail(flow, await code('ann@example.com'));
  report.email = [upgraded.outcome, upgraded.user.email];

  const bob = await open('bob');
  const set = await bob.signIn.startEmail('bob@example.com');
  const made = await bob.signIn.setPassword(set, await code('bob@example.com'), PASSWORD);
  const again = await open('bob-again');
  const signed = await again.signIn.password('bob@example.com', PASSWORD);
  report.password = [made.status, signed.status, signed.user.id === made.user.id];

  const { secret } = await bob.account.enrolSecondFactor();
  const recovery = await bob.account.confirmSecondFactor(totp(secret));
  const third = await open('bob-third');
  const needed = await third.signIn.password('bob@example.com', PASSWORD);
  const done = await third.signIn.secondFactor(needed, recovery[0]);
  report.second = [needed.status, done.status];

  const cleo = await open('cleo');
  const text = await cleo.signIn.startSms('+41791234567');
  const sms = await cleo.signIn.finishSms(text, await code('+41791234567'));
  report.sms = [sms.status, (await cleo.account.identities()).map((one) => one.provider)];

  // And with the tokens of the last one the app syncs.
  const device = await phone('cleo', { getToken: () => cleo.token() });
  await device.db.execute('INSERT INTO note(id, user_id, body) VALUES (uuid(), ?, ?)', [cleo.user.id, 'Hello']);
  for (const end = Date.now() + WAIT; Date.now() < end && (await device.db.getNextCrudTransaction()); ) await sleep(20);
  const kept = await fetch(`${url}/v1/records/note`, { headers: { authorization: `Bearer ${await cleo.token()}` } });
  report.note = (await kept.json()).records.map((one) => one.body ?? one.data?.body);
  return report;
});
