// A user signs a lost phone out from another one: it stops at once, and what it has not sent stays on it.

import { join } from 'node:path';
import { folder, given, joinTeam, phone, scenario, sleep, until, uploaded, url, uuid } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { Session } from './session.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const QUEUE = 'SELECT count(*) AS n FROM ps_crud';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const open = (name) => new Session(url, join(folder, `${name}.json`));
  const [first, second] = [open('first'), open('second')];
  await first.begin();
  first.take(await first.prove('carol@example.com', mail));
  await joinTeam('green', first.kept.user);
  const signedIn = second.take(await second.prove('carol@example.com', mail));
  const [lost, found] = [
    await phone('lost', { getToken: () => first.token() }),
    await phone('found', { getToken: () => second.token() })
  ];
  await lost.db.execute(TASK, ['sent', 'green', 'Sent']);
  await uploaded(lost);
  await until(found.db, 'SELECT title FROM task', [{ title: 'Sent' }]);

  // A stream beside the SDK's shows when the server ends it.
  const token = first.kept.access_token;
  const stream = await fetch(`${url}/sync/stream`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ client_id: uuid(), raw_data: true })
  });
  const over = (async () => {
    for await (const _ of stream.body);
    return Date.now();
  })();

  const uploads = [];
  const { post } = lost.connector;
  let held = true;
  lost.connector.post = async (path, body) => {
    while (held) await sleep(10); // written before the end, sent after it
    const { status, answer } = await post.call(lost.connector, path, body);
    uploads.push([status, answer.code]);
    return { status, answer };
  };
  await lost.db.execute(TASK, ['kept', 'green', 'Never sent']);
  const { sessions } = await second.call('GET', '/v1/auth/sessions');
  const ending = sessions.filter((session) => !session.current).map((session) => session.id);
  const asked = Date.now();
  for (const id of ending) await second.call('DELETE', `/v1/auth/sessions/${id}`);
  held = false;
  const streamed = (await over) - asked;
  while (lost.db.currentStatus.connected || uploads.length < 1 || !first.ended) await sleep(20);
  await lost.db.execute(TASK, ['more', 'green', 'Written signed out']);
  const refused = await first.call('GET', '/v1/auth/me', undefined, { token }).catch(({ problem }) => problem);
  await found.db.execute(TASK, ['after', 'green', 'Goes on']);
  await uploaded(found);
  const shows = await found.db.getAll('SELECT id FROM task ORDER BY id');

  // The same user signs in again on the phone that was found: what waited goes out.
  const queue = { before: (await lost.db.get(QUEUE)).n, rows: await lost.db.getAll('SELECT id FROM task ORDER BY id') };
  const refresh = { ...first.ended.problem };
  const answered = [...uploads];
  first.take(await first.prove('carol@example.com', mail));
  await uploaded(lost);
  await until(found.db, 'SELECT count(*) AS n FROM task', [{ n: 4 }]);
  await until(lost.db, 'SELECT count(*) AS n FROM task', [{ n: 4 }]);
  mail.close();
  return {
    outcome: signedIn.outcome,
    same: signedIn.user.id === first.kept.user,
    ended: ending.length,
    streamed,
    uploads: answered,
    refused,
    refresh,
    queue,
    shows,
    refusals: lost.refused.length + found.refused.length
  };
});
