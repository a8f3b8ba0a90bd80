// What the server refuses comes back with its reason, the row is put right, and the queue goes on.

import {
  ask,
  caughtUp,
  content,
  joinTeam,
  phone,
  put,
  request,
  scenario,
  server,
  until
} from './harness.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const HANDLE = 'INSERT INTO handle(id, name) VALUES (?, ?)';

await scenario(async () => {
  await joinTeam('red', 'anna');
  await server(put('task', 'task', { team_id: 'red', title: 'Start' }), put('handle', 'taken', { name: 'taken' }));
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await until(anna.db, 'SELECT title FROM task', [{ title: 'Start' }]);
  await anna.offline();
  const { db } = anna;
  await db.execute(HANDLE, ['good', 'good']);
  await db.execute('INSERT INTO handle(id, name, _metadata) VALUES (?, ?, ?)', ['rude', 'rude word', 'form 7']);
  await db.execute(HANDLE, ['double', 'taken']);
  await db.execute(TASK, ['foreign', 'blue', 'Not my team']);
  await db.execute(TASK, ['long', 'red', 'x'.repeat(81)]);
  await db.execute(`UPDATE task SET approved = 1 WHERE id = 'task'`);
  await db.writeTransaction(async (tx) => {
    await tx.execute(TASK, ['half', 'red', 'In good company']);
    await tx.execute(HANDLE, ['half', 'rude again']);
  });
  await db.execute(`DELETE FROM city WHERE id = 'nowhere'`); // no such row: nothing to upload
  await db.execute(TASK, ['last', 'red', 'Behind them all']);
  const optimistic = await content(anna);
  await anna.online();
  await caughtUp(anna, ben);
  const after = { anna: await content(anna), ben: await content(ben) };
  const token = await ask('token', { user: 'anna' });
  const device = `/v1/sync/devices/${await db.getClientId()}`;
  const known = await request('GET', device, token);

  await db.execute('DELETE FROM lowtide_rejections');
  await caughtUp(anna);
  return {
    optimistic,
    after,
    heard: anna.refused.map(({ n, code }) => ({ n, code })),
    rejections: { before: known.rejections, after: (await request('GET', device, token)).rejections },
    dismissed: await db.getAll('SELECT * FROM lowtide_rejections'),
    uploadError: db.currentStatus.uploadError ?? null
  };
});
