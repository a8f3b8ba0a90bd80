// A guest writes offline, then signs in to the account they have: what waited goes out as that account's own.

import { join } from 'node:path';
import { caughtUp, content, folder, given, joinTeam, phone, scenario, until, uploaded, url } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { Session } from './session.mjs';

const NOTE = 'INSERT INTO note(id, user_id, body) VALUES (?, ?, ?)';
const NOTES = 'SELECT id FROM note ORDER BY id';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const open = (name) => new Session(url, join(folder, `${name}.json`));
  const [hers, guest, another] = [open('desk'), open('phone'), open('stranger')];
  await hers.begin();
  hers.take(await hers.prove('dora@example.com', mail));
  await guest.begin();
  await another.begin();
  const [user, old] = [hers.kept.user, guest.kept.user];
  await joinTeam('blue', old);
  const [desk, stranger] = [
    await phone('desk', { getToken: () => hers.token() }),
    await phone('stranger', { getToken: () => another.token() })
  ];
  const mobile = await phone('phone', { getToken: () => guest.token() });
  await desk.db.execute(NOTE, ['desk', user, 'From the desk']);
  await mobile.db.execute(NOTE, ['sent', old, 'Sent']);
  await Promise.all([desk, mobile].map(uploaded));
  await until(mobile.db, 'SELECT team_id FROM membership', [{ team_id: 'blue' }]);
  const before = await stranger.db.getAll(NOTES);

  await mobile.offline();
  await mobile.db.execute(NOTE, ['offline', old, 'Offline']);
  await mobile.db.execute(`UPDATE note SET body = 'Changed offline' WHERE id = 'sent'`);
  await mobile.db.execute(`INSERT INTO task(id, team_id, title) VALUES ('task', 'blue', 'Offline')`);
  const queued = (await mobile.db.get('SELECT count(*) AS n FROM ps_crud')).n;

  // Signed in to the account that there is, and made one with it; the first answer is lost.
  const { access_token: stale, refresh_token } = guest.kept;
  const proved = await guest.prove('dora@example.com', mail);
  guest.take(proved);
  const merge = () => guest.call('POST', '/v1/auth/merge', { token: refresh_token });
  const first = await merge();
  const again = await merge();
  guest.take(again.signed);
  const late = await guest.call('GET', '/v1/auth/me', undefined, { token: stale }).catch((error) => error.message);
  const kept = { refresh_token, rotation_id: 'an app that died in the middle' };
  const refreshed = await guest.call('POST', '/v1/auth/token/refresh', kept, { anonymous: true });

  await mobile.online();
  await uploaded(mobile);
  await mobile.db.execute(NOTE, ['after', user, 'After']);
  await caughtUp(mobile, desk, stranger);
  await until(desk.db, NOTES, [{ id: 'after' }, { id: 'desk' }, { id: 'offline' }, { id: 'sent' }]);
  mail.close();
  return {
    user,
    outcome: proved.outcome,
    other: proved.user.id !== old,
    became: first.signed.user.id === user,
    records: first.records,
    left: first.left,
    again: { records: again.records, left: again.left, user: again.signed.user.id === user },
    queued,
    stale: late,
    old: refreshed.user.id === user,
    phone: await content(mobile),
    desk: await content(desk),
    stranger: { before, after: await stranger.db.getAll(NOTES) },
    refused: mobile.refused.length + desk.refused.length
  };
});
