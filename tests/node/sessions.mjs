// Phones that sign in for real, with access tokens of two seconds: nobody is ever signed out by a network.

import { isError } from '@lowtide/client';
import { caughtUp, content, given, joinTeam, phone, request, scenario, sleep, until, uploaded } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { network, open, prove, REFRESH } from './people.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const COUNT = 'SELECT count(*) AS n FROM task';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const [mine, other] = [await open('anna'), await open('ben')];
  const began = await mine.signIn.anonymous();
  await other.signIn.anonymous();
  await joinTeam('red', mine.user.id, other.user.id);
  let session = mine;
  const tokens = { token: (refused) => session.token(refused) };
  const anna = await phone('anna', { connecting: { tokens } });
  const ben = await phone('ben', { connecting: { tokens: other } });
  await Promise.all([anna.db.waitForFirstSync(), ben.db.waitForFirstSync()]);

  // An anonymous user proves a mailbox in mid-sync: the same id, nothing to move.
  await anna.db.execute(TASK, ['anonymous', 'red', 'Before the name']);
  await uploaded(anna);
  await until(ben.db, COUNT, [{ n: 1 }]);
  const upgraded = await prove(mine, 'anna@example.com', mail);
  const device = (await mine.account.devices()).map(({ id }) => id);

  // Longer than an access token, written to all the time.
  for (let i = 0; i < 12; i++) {
    await anna.db.execute(TASK, [`${i}`, 'red', `Task ${i}`]);
    await sleep(250);
  }
  await until(ben.db, COUNT, [{ n: 13 }]);
  const refreshed = { anna: mine.net.count(REFRESH), ben: other.net.count(REFRESH) };

  // Offline until the token is long over; then the answer to the refresh is lost, and the app is killed.
  await anna.offline();
  await anna.db.execute(TASK, ['offline', 'red', 'Offline']);
  const stale = await mine.token();
  await sleep(2500);
  const late = await request('GET', '/v1/auth/me', stale).catch((error) => JSON.parse(error.message).code);
  const lost = [];
  mine.net.between = ({ path, body, answer }) => {
    if (path === REFRESH) lost.push({ sent: body, refresh_token: answer.refresh_token });
    throw new TypeError('fetch failed');
  };
  await anna.online();
  while (lost.length < 2) await sleep(20);
  const offline = { status: mine.state.status, user: mine.user.id === began.user.id };
  const error = await mine.token().then(String, (error) => ({ ours: isError(error), code: error.code, retryable: error.retryable }));
  mine.close();
  const net = network();
  net.between = () => new Promise(() => {}); // no answer ever: starting needs none
  const again = await open('anna', net);
  const started = { status: again.state.status, user: again.user.id === began.user.id };
  net.between = null;
  const waiting = (await anna.db.get('SELECT count(*) AS n FROM ps_crud')).n;
  session = again;
  await until(ben.db, `SELECT title FROM task WHERE id = 'offline'`, [{ title: 'Offline' }]);
  await uploaded(anna);
  const [repeat] = net.sent.filter(({ path }) => path === REFRESH);
  const me = await again.account.read();

  // And the child goes on: a parent that was repeated has spoilt nothing.
  const before = net.count(REFRESH);
  while (net.count(REFRESH) === before) await sleep(20);
  await ben.db.execute(TASK, ['last', 'red', 'From ben']);
  await until(anna.db, `SELECT title FROM task WHERE id = 'last'`, [{ title: 'From ben' }]);
  await caughtUp(anna, ben);
  const devices = await again.account.devices();
  mail.close();
  return {
    began: began.user.anonymous,
    outcome: upgraded.outcome,
    same: { user: upgraded.user.id === began.user.id, session: devices.length === 1 && devices[0].id === device[0] },
    refreshed,
    late,
    lost,
    offline,
    error,
    started,
    waiting,
    repeat: { sent: repeat.body, refresh_token: repeat.answer.refresh_token },
    me: { id: me.id === began.user.id, email: me.email, anonymous: me.anonymous },
    states: [again.state.status, other.state.status],
    anna: await content(anna),
    ben: await content(ben)
  };
});
