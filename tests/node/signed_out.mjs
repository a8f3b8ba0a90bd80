// Signing out throws away what was not uploaded, and the next user of the same phone is not held up by it.

import { caughtUp, content, joinTeam, phone, scenario, until, uploaded } from './harness.mjs';

const TASK = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const anna = await phone('anna');
  const { db } = anna;
  await db.waitForFirstSync();
  await db.execute(TASK, ['kept', 'red', 'Kept']);
  await uploaded(anna);
  await anna.offline();
  await db.execute(TASK, ['lost', 'red', 'Thrown away']);
  await db.execute(TASK, ['lost too', 'red', 'Thrown away']);
  await db.disconnectAndClear();
  const cleared = await content(anna);

  await anna.online();
  await until(db, 'SELECT id FROM task', [{ id: 'kept' }]);
  await db.execute(TASK, ['again', 'red', 'After']);
  await caughtUp(anna);
  const again = await content(anna);
  await db.disconnectAndClear();
  await db.close();

  const ben = await phone('ben', { file: 'anna.db' });
  await ben.db.execute(TASK, ['ben', 'red', 'By the next']);
  await caughtUp(ben);
  return { cleared, again, ben: await content(ben) };
});
