// Every way in, over a network that loses the first answer to everything: each is done once, and nobody notices.

import { Lowtide } from '@lowtide/client';
import { content, given, joinTeam, phone, scenario, sleep, until, uploaded, url } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { network, open, prove } from './people.mjs';
import { totp } from './totp.mjs';

const NOTE = 'INSERT INTO note(id, user_id, body) VALUES (?, ?, ?)';
const PASSWORD = 'seven grey herons wait';

/** A network that loses the first answer of every address and body. */
function losing() {
  const net = network();
  const seen = new Set();
  net.between = ({ path, body }) => {
    const what = `${path} ${body}`;
    if (seen.has(what)) return;
    seen.add(what);
    throw new TypeError('fetch failed');
  };
  return net;
}

/** What was asked of a path, and how many different answers it had. */
function story(net, path) {
  const sent = net.sent.filter((exchange) => exchange.path === path && exchange.status < 300);
  return [sent.length, new Set(sent.map(({ answer }) => JSON.stringify(answer))).size];
}
const failure = (promise) => promise.then(() => 'no error', ({ code }) => code);

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const report = {};

  // Without a name, then with one.
  const ann = await open('ann', losing());
  const began = await ann.signIn.anonymous();
  const twice = await ann.signIn.anonymous();
  const upgraded = await prove(ann, 'ann@example.com', mail);
  report.begin = {
    same: began.user.id === twice.user.id && began.user.id === upgraded.user.id,
    outcome: upgraded.outcome,
    anonymous: story(ann.net, '/v1/auth/anonymous'),
    start: story(ann.net, '/v1/auth/email/start'),
    finish: story(ann.net, '/v1/auth/email/finish')
  };

  // A wrong code is a wrong code, and signs nobody out.
  const flow = await ann.signIn.startEmail('ann@example.com');
  report.wrong = [await failure(ann.signIn.finishEmail(flow, '00000000')), ann.state.status];
  await mail.code('ann@example.com');

  // A password, and a second factor. Making one is no POST that may be repeated: the network is good meanwhile.
  const set = await ann.signIn.startEmail('ann@example.com');
  const code = await mail.code('ann@example.com');
  const weak = await ann.signIn.setPassword(set, code, 'passwordpassword').catch((error) => error);
  report.weak = [weak.code, weak.status, weak.problem.reason, weak.retryable];
  report.password = (await ann.signIn.setPassword(set, code, PASSWORD)).outcome;
  ann.net.between = null;
  const { secret, uri } = await ann.account.enrolSecondFactor();
  const recovery = await ann.account.confirmSecondFactor(totp(secret));
  report.enrolled = [uri.startsWith('otpauth://'), recovery.length];

  const tablet = await open('tablet', losing());
  const needed = await tablet.signIn.password('ann@example.com', PASSWORD);
  report.second = {
    needed: [needed.status, needed.factors.includes('recovery'), tablet.state.status],
    wrong: await failure(tablet.signIn.secondFactor(needed, '000000')),
    done: (await tablet.signIn.secondFactor(needed, recovery[0])).user.id === began.user.id,
    bad: await failure(tablet.signIn.password('ann@example.com', 'something else altogether')),
    after: tablet.state.status
  };
  tablet.net.between = null;

  // What else there is to ask, as far as it goes without telephones and providers.
  const { signIn, account } = ann;
  report.account = {
    name: (await account.rename('Ann')).name,
    heard: ann.user.name,
    ways: (await account.identities()).map(({ provider, subject }) => [provider, subject]),
    unlinked: await failure(account.unlink({ provider: 'nothing', subject: 'a/b' })),
    codes: (await account.renewRecoveryCodes()).length,
    password: await failure(account.changePassword('another seven grey herons', 'not the present one')),
    changed: await failure(account.changePassword('another seven grey herons', PASSWORD)),
    removed: await failure(account.removeSecondFactor()),
    passkeys: await account.passkeys(),
    rename: await failure(account.renamePasskey('none', 'Phone')),
    remove: await failure(account.deletePasskey('none')),
    device: await failure(account.signOutDevice('none', { wipe: true })),
    merge: await failure(signIn.merge()),
    space: await failure(ann.refresh('elsewhere')),
    after: [ann.state.status, (await account.read()).id === began.user.id]
  };
  report.account.others = [await failure(tablet.account.read()), tablet.state.status];
  report.account.again = (await tablet.signIn.password('ann@example.com', 'another seven grey herons')).status;
  const nonce = signIn.nonce();
  const { url: start } = await signIn.startUpstream('okta', 'com.example:/in', 'ann@example.com');
  const begun = await fetch(start, { redirect: 'manual' });
  report.outside = {
    text: await failure(signIn.finishSms({ flow_id: 'none' }, '12345678')),
    nonce: [nonce.raw.length >= 16, nonce.hashed.length],
    apple: await failure(signIn.idToken({ provider: 'apple', id_token: 'e.e.e', nonce: nonce.raw, name: 'Ann' })),
    start: [begun.status, (await begun.json()).code],
    finish: await failure(signIn.finishUpstream(`com.example:/in?code=none&state=${new URL(start).searchParams.get('state')}`)),
    refused: await failure(signIn.finishUpstream(`com.example:/in?error=access_denied&state=${new URL(start).searchParams.get('state')}`))
  };

  // The link in the mail, opened somewhere else, while the network loses the first answers: also the one that signs in.
  const confirm = async ({ number }, address) => {
    const token = new URL(await mail.link(address)).searchParams.get('token');
    const headers = { origin: url, 'content-type': 'application/x-www-form-urlencoded' };
    const body = new URLSearchParams({ token, number });
    return (await fetch(`${url}/v1/auth/email/link`, { method: 'POST', body, headers })).status;
  };
  const laptop = await open('laptop');
  const waiting = await laptop.signIn.startEmail('bob@example.com');
  const pending = laptop.signIn.waitForLink(waiting);
  const given_up = await failure(laptop.signIn.waitForLink(waiting, AbortSignal.timeout(300)));
  let unheard = 0;
  laptop.net.between = ({ path, status }) => {
    if (path !== '/v1/auth/email/finish' || status !== 200 || unheard++ > 3) return;
    throw new TypeError('fetch failed');
  };
  const chosen = await confirm(waiting, 'bob@example.com');
  const bob = (await pending).user;
  const again = await laptop.signIn.waitForLink(waiting); // the app was closed before it took the answer
  report.link = {
    given_up,
    chosen,
    email: bob.email,
    unheard: unheard > 3,
    again: again.user.id === bob.id,
    finish: story(laptop.net, '/v1/auth/email/finish')[1]
  };

  // The account gets another way in, and is signed in to no other.
  const work = await laptop.signIn.startEmail('bob@work.example');
  const linking = laptop.signIn.waitForLink(work, undefined, { link: true });
  await confirm(work, 'bob@work.example');
  const linked = await linking;
  (await open('carl').then(async (carl) => (await prove(carl, 'carl@example.com', mail), carl))).close();
  const theirs = await laptop.signIn.startEmail('carl@example.com');
  const taken = await failure(laptop.signIn.finishEmail(theirs, await mail.code('carl@example.com'), { link: true }));
  report.linked = {
    same: linked.user.id === bob.id,
    ways: (await laptop.account.identities()).map(({ subject }) => subject).sort(),
    taken,
    after: laptop.user.id === bob.id
  };
  const nobody = await open('nobody');
  report.linked.nobody = [
    await failure(nobody.signIn.finishEmail({ flow_id: 'none' }, '12345678', { link: true })),
    nobody.state.status
  ];

  // Devices, and a wipe from one to the other.
  const phones = await phone('tablet', { online: false });
  const lowtide = new Lowtide(phones.db, { tokens: tablet });
  const wiped = new Promise((resolve) => lowtide.on('wiped', resolve));
  await joinTeam('grey', began.user.id);
  await lowtide.connect({ sync: { retryDelayMs: 100, crudUploadThrottleMs: 10 } });
  await phones.db.execute(NOTE, ['secret', began.user.id, 'A secret']);
  await uploaded(phones);
  await until(phones.db, 'SELECT team_id FROM membership', [{ team_id: 'grey' }]);
  report.devices = (await ann.account.devices()).map(({ current }) => current).sort();
  await ann.account.signOutOthers({ wipe: true });
  report.wiped = {
    user: (await wiped).user === began.user.id,
    content: await content(phones),
    state: tablet.state,
    kept: tablet.state.ended.user === began.user.id
  };
  delete report.wiped.state.ended.user;

  // The end of the account, heard of while the app's database is closed: it is emptied at the next start.
  const desk = await phone('desk', { online: false });
  const opened = new Lowtide(desk.db, { tokens: ann });
  await opened.connect({ sync: { retryDelayMs: 100 } });
  await until(desk.db, 'SELECT id FROM note', [{ id: 'secret' }]);
  await opened.close();
  await ann.account.delete();
  const there = (await content(desk)).note.length;
  ann.close();
  const restarted = await open('ann');
  await new Lowtide(desk.db, { tokens: restarted }).open();
  report.restarted = { there, content: await content(desk), wipe: restarted.state.ended.wipe };
  report.deleted = [ann.state.status, ann.state.ended.code, ann.state.ended.wipe];
  report.others = laptop.state.status;
  await sleep(0);
  mail.close();
  return report;
});
