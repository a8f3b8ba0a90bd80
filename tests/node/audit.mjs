// A phone whose storage has changed by itself: the audit sees it, and the phone is healed.

import { caughtUp, content, joinTeam, phone, put, scenario, server, until } from './harness.mjs';

const TASK = `SELECT title FROM task WHERE id = 'task-7'`;

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(...Array.from({ length: 20 }, (_, i) => put('task', `task-${i}`, { team_id: 'red', title: `Task ${i}` })));
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await caughtUp(anna, ben);
  const sound = await anna.connector.audit(anna.db);
  await anna.db.execute(`UPDATE ps_oplog SET data = replace(data, 'Task 7', 'Tusk') WHERE row_id = 'task-7'`);
  await anna.db.execute(`UPDATE ps_data__task SET data = replace(data, 'Task 7', 'Tusk') WHERE id = 'task-7'`);
  const broken = await anna.db.getAll(TASK);
  // A day later, at the next change of the connection.
  const now = Date.now;
  Date.now = () => now() + 25 * 3600 * 1000;
  await anna.offline();
  await anna.online();
  await until(anna.db, TASK, [{ title: 'Task 7' }]);
  await caughtUp(anna, ben);
  return { sound, broken, again: await anna.connector.audit(anna.db), anna: await content(anna), ben: await content(ben) };
});
