// The value that loses a conflict is kept, can be looked at by those who see the record, and restored.

import {
  ask,
  caughtUp,
  joinTeam,
  phone,
  put,
  request,
  scenario,
  server,
  sleep,
  until,
  uploaded
} from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Start', votes: 1 }));
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  for (const { db } of [anna, ben]) await until(db, 'SELECT title FROM task', [{ title: 'Start' }]);
  await Promise.all([anna.offline(), ben.offline()]);
  await anna.db.execute(`UPDATE task SET title = 'Anna', estimate = 5, votes = 2`);
  await sleep(30);
  await ben.db.execute(`UPDATE task SET title = 'Ben', estimate = 5, votes = 2`);
  await anna.online();
  await uploaded(anna);
  await ben.online();
  await uploaded(ben);
  await caughtUp(anna, ben);

  const path = '/v1/sync/conflicts?model=task&id=task';
  const token = await ask('token', { user: 'anna' });
  const { conflicts } = await request('GET', path, token);
  const stranger = await request('GET', path, await ask('token', { user: 'zoe' })).catch((error) => error.message);
  await request('POST', `/v1/sync/conflicts/${conflicts[0].id}/restore`, token, {});
  for (const { db } of [anna, ben]) await until(db, 'SELECT title FROM task', [{ title: 'Anna' }]);
  return {
    clients: { anna: await anna.db.getClientId(), ben: await ben.db.getClientId() },
    conflicts,
    stranger: JSON.parse(stranger),
    votes: await ben.db.get('SELECT votes, estimate FROM task')
  };
});
