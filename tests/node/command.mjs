// A call of a server function, made without a network: it runs once, and its result is a row.

import {
  caughtUp,
  content,
  history,
  joinTeam,
  phone,
  put,
  scenario,
  server,
  until,
  uploaded
} from './harness.mjs';

const CALL = 'INSERT INTO lowtide_commands(id, name, args) VALUES (?, ?, ?)';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Sail' }));
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await until(anna.db, 'SELECT title FROM task', [{ title: 'Sail' }]);
  await anna.offline();
  const { db } = anna;
  const votes = history(ben, 'SELECT votes FROM task');
  const call = (id, name, args) => db.execute(CALL, [id, name, JSON.stringify(args)]);
  await call('good', 'close_task', { task_id: 'task', reason: 'no wind' });
  await call('missing', 'close_task', { task_id: 'nothing' });
  await call('unknown', 'open_task', {});
  await call('wrong', 'close_task', { task: 7 });
  const offline = await db.getAll('SELECT id, status FROM lowtide_commands ORDER BY id');
  await anna.online();
  await uploaded(anna);
  await until(db, `SELECT count(*) AS n FROM lowtide_commands WHERE status IN ('done', 'failed')`, [{ n: 4 }]);
  await until(ben.db, 'SELECT title FROM task', [{ title: 'Sail (no wind)' }]);
  await caughtUp(anna, ben);
  const commands = await db.getAll('SELECT id, name, status, result, error FROM lowtide_commands ORDER BY id');
  return { offline, commands, anna: await content(anna), ben: await content(ben), votes: votes.flat() };
});
