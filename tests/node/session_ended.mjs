// A user signs a lost phone out from another one: it stops at once, and what it has not sent stays on it.

import { given, joinTeam, phone, request, scenario, sleep, until, uploaded, url, uuid } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { network, open, prove, REFRESH } from './people.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const QUEUE = 'SELECT count(*) AS n FROM ps_crud';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const [first, second] = [await open('first'), await open('second')];
  await first.signIn.anonymous();
  await prove(first, 'carol@example.com', mail);
  const user = first.user.id;
  await joinTeam('green', user);
  const signedIn = await prove(second, 'carol@example.com', mail);
  let held = false;
  const holding = async (address, options) => {
    while (held) await sleep(10); // written before the end, sent after it
    return network().fetch(address, options);
  };
  const [lost, found] = [
    await phone('lost', { connecting: { tokens: first, fetch: holding } }),
    await phone('found', { connecting: { tokens: second } })
  ];
  await lost.db.execute(TASK, ['sent', 'green', 'Sent']);
  await uploaded(lost);
  await until(found.db, 'SELECT title FROM task', [{ title: 'Sent' }]);

  // A stream beside the SDK's shows when the server ends it.
  const token = await first.token();
  const stream = await fetch(`${url}/sync/stream`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ client_id: uuid(), raw_data: true })
  });
  const over = (async () => {
    for await (const _ of stream.body);
    return Date.now();
  })();

  held = true;
  const before = lost.uploads.length;
  await lost.db.execute(TASK, ['kept', 'green', 'Never sent']);
  const ending = (await second.account.devices()).filter((device) => !device.current);
  const asked = Date.now();
  for (const { id } of ending) await second.account.signOutDevice(id);
  held = false;
  const streamed = (await over) - asked;
  while (lost.db.currentStatus.connected || first.user) await sleep(20);
  await lost.db.execute(TASK, ['more', 'green', 'Written signed out']);
  const refused = await request('GET', '/v1/auth/me', token).catch((error) => JSON.parse(error.message));
  await found.db.execute(TASK, ['after', 'green', 'Goes on']);
  await uploaded(found);
  const shows = await found.db.getAll('SELECT id FROM task ORDER BY id');

  // The same user signs in again on the phone that was found: what waited goes out.
  const queue = { before: (await lost.db.get(QUEUE)).n, rows: await lost.db.getAll('SELECT id FROM task ORDER BY id') };
  const refresh = first.net.sent.findLast(({ path }) => path === REFRESH).answer;
  const { ended } = first.state;
  const uploads = lost.uploads.slice(before);
  await prove(first, 'carol@example.com', mail);
  await uploaded(lost);
  await until(found.db, 'SELECT count(*) AS n FROM task', [{ n: 4 }]);
  await until(lost.db, 'SELECT count(*) AS n FROM task', [{ n: 4 }]);
  mail.close();
  return {
    outcome: signedIn.outcome,
    same: signedIn.user.id === user,
    ending: ending.length,
    streamed,
    uploads,
    refused,
    refresh,
    ended: { ...ended, user: ended.user === user },
    queue,
    shows,
    refusals: lost.refused.length + found.refused.length
  };
});
