// Phones that sign in for real, with access tokens of two seconds: nobody is ever signed out by a network.

import { join } from 'node:path';
import { caughtUp, content, folder, given, joinTeam, phone, scenario, sleep, until, uploaded, url } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { Session } from './session.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const COUNT = 'SELECT count(*) AS n FROM task';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const open = (name) => new Session(url, join(folder, `${name}.json`));
  const [mine, other] = [open('anna'), open('ben')];
  const began = await mine.begin();
  await other.begin();
  await joinTeam('red', mine.kept.user, other.kept.user);
  let session = mine;
  const anna = await phone('anna', { getToken: () => session.token() });
  const ben = await phone('ben', { getToken: () => other.token() });
  await Promise.all([anna.db.waitForFirstSync(), ben.db.waitForFirstSync()]);

  // An anonymous user proves a mailbox in mid-sync: the same id, the same session, nothing to move.
  await anna.db.execute(TASK, ['anonymous', 'red', 'Before the name']);
  await uploaded(anna);
  await until(ben.db, COUNT, [{ n: 1 }]);
  const upgraded = mine.take(await mine.prove('anna@example.com', mail));
  const same = { user: upgraded.user.id === began.user.id, session: mine.kept.session_id };

  // Longer than an access token, written to all the time.
  for (let i = 0; i < 12; i++) {
    await anna.db.execute(TASK, [`${i}`, 'red', `Task ${i}`]);
    await sleep(250);
  }
  await until(ben.db, COUNT, [{ n: 13 }]);
  const refreshed = { anna: mine.refreshes, ben: other.refreshes };

  // Offline until the token is long over; then the answer to the refresh is lost, and the app is killed.
  await anna.offline();
  await anna.db.execute(TASK, ['offline', 'red', 'Offline']);
  await sleep(2500);
  const stale = mine.kept.access_token;
  const late = await mine.call('GET', '/v1/auth/me', undefined, { token: stale }).catch((error) => error.message);
  const lost = [];
  mine.fetch = async (address, options) => {
    const answer = await (await fetch(address, options)).json();
    if (address.endsWith('/refresh')) lost.push({ sent: options.body, refresh_token: answer.refresh_token });
    throw new TypeError('fetch failed');
  };
  await anna.online();
  while (lost.length < 2) await sleep(20);
  const again = open('anna'); // the app starts anew: what it sends is on the disk
  const waiting = (await anna.db.get('SELECT count(*) AS n FROM ps_crud')).n;
  const repeats = [];
  again.fetch = async (address, options) => {
    const response = await fetch(address, options);
    if (address.endsWith('/refresh')) {
      repeats.push({ sent: options.body, refresh_token: (await response.clone().json()).refresh_token });
    }
    return response;
  };
  session = again;
  await until(ben.db, `SELECT title FROM task WHERE id = 'offline'`, [{ title: 'Offline' }]);
  await uploaded(anna);
  const me = await again.call('GET', '/v1/auth/me');

  // And the child goes on: a parent that was repeated has spoilt nothing.
  const before = again.refreshes;
  while (again.refreshes === before) await sleep(20);
  await ben.db.execute(TASK, ['last', 'red', 'From ben']);
  await until(anna.db, `SELECT title FROM task WHERE id = 'last'`, [{ title: 'From ben' }]);
  await caughtUp(anna, ben);
  mail.close();
  return {
    began: began.user.anonymous,
    outcome: upgraded.outcome,
    same: { ...same, session: same.session === again.kept.session_id },
    refreshed,
    late,
    lost,
    waiting,
    repeat: repeats[0],
    me: { id: me.id === began.user.id, email: me.email, anonymous: me.anonymous },
    ended: [mine.ended, again.ended, other.ended].filter(Boolean).map(String),
    anna: await content(anna),
    ben: await content(ben)
  };
});
