// A guest writes offline, then signs in to the account they have: what waited goes out as that account's own.

import { Lowtide } from '@lowtide/client';
import { caughtUp, content, given, joinTeam, phone, request, scenario, until, uploaded } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { open, prove, REFRESH } from './people.mjs';

const NOTE = 'INSERT INTO note(id, user_id, body) VALUES (?, ?, ?)';
const NOTES = 'SELECT id FROM note ORDER BY id';
const MERGE = '/v1/auth/merge';

await scenario(async () => {
  const mail = await mailbox(given.smtp);
  const [hers, guest, another] = [await open('desk'), await open('phone'), await open('stranger')];
  await hers.signIn.anonymous();
  await prove(hers, 'dora@example.com', mail);
  await guest.signIn.anonymous();
  await another.signIn.anonymous();
  const [user, old] = [hers.user.id, guest.user.id];
  await joinTeam('blue', old);
  const [desk, stranger] = [
    await phone('desk', { connecting: { tokens: hers } }),
    await phone('stranger', { connecting: { tokens: another } })
  ];
  const mobile = await phone('phone', { online: false });
  const lowtide = new Lowtide(mobile.db, { tokens: guest });
  lowtide.on('refused', (refusals) => mobile.refused.push(...refusals));
  await lowtide.connect({ sync: { retryDelayMs: 100, crudUploadThrottleMs: 10 } });
  await desk.db.execute(NOTE, ['desk', user, 'From the desk']);
  await mobile.db.execute(NOTE, ['sent', old, 'Sent']);
  await Promise.all([desk, mobile].map(uploaded));
  await until(mobile.db, 'SELECT team_id FROM membership', [{ team_id: 'blue' }]);
  const before = await stranger.db.getAll(NOTES);

  await lowtide.disconnect();
  await mobile.db.execute(NOTE, ['offline', old, 'Offline']);
  await mobile.db.execute(`UPDATE note SET body = 'Changed offline' WHERE id = 'sent'`);
  await mobile.db.execute(`INSERT INTO task(id, team_id, title) VALUES ('task', 'blue', 'Offline')`);
  const queued = await lowtide.waiting();

  // Signed in to the account that there is: nothing of the guest's is sent as hers before they are one.
  const stale = await guest.token();
  const { refresh_token } = guest.net.sent.findLast(({ answer }) => answer.refresh_token).answer;
  const proved = await prove(guest, 'dora@example.com', mail);
  const early = await lowtide.connect().catch((error) => error.code);
  const held = await lowtide.waiting();

  // Made one with it; the first answer is lost.
  let losing = true;
  guest.net.between = ({ path }) => {
    if (path !== MERGE || !losing) return;
    losing = false;
    throw new TypeError('fetch failed');
  };
  const merged = await guest.signIn.merge();
  const merges = guest.net.sent.filter(({ path }) => path === MERGE).map(({ answer }) => answer.signed.refresh_token);
  const late = await request('GET', '/v1/auth/me', stale).catch((error) => JSON.parse(error.message).code);
  const kept = { refresh_token, rotation_id: 'an app that died in the middle' };
  const refreshed = await request('POST', REFRESH, '', kept);

  await lowtide.connect({ sync: { retryDelayMs: 100, crudUploadThrottleMs: 10 } });
  await uploaded(mobile);
  await mobile.db.execute(NOTE, ['after', user, 'After']);
  await caughtUp(mobile, desk, stranger);
  await until(desk.db, NOTES, [{ id: 'after' }, { id: 'desk' }, { id: 'offline' }, { id: 'sent' }]);
  mail.close();
  return {
    user,
    outcome: proved.outcome,
    guest: proved.guest === old,
    other: proved.user.id !== old,
    early,
    held,
    became: guest.user.id === user,
    records: merged.records,
    left: merged.left,
    merges: { count: merges.length, same: new Set(merges).size === 1 },
    over: guest.state.guest,
    queued,
    stale: late,
    old: refreshed.user.id === user,
    phone: await content(mobile),
    desk: await content(desk),
    stranger: { before, after: await stranger.db.getAll(NOTES) },
    refused: mobile.refused.length + desk.refused.length
  };
});
