// Who leaves a team loses its rows at the next checkpoint; who comes back has them all again.

import {
  caughtUp,
  content,
  history,
  joinTeam,
  patch,
  phone,
  put,
  remove,
  scenario,
  server,
  until,
  uploaded
} from './harness.mjs';

const SEEN = `SELECT (SELECT group_concat(team_id, ',') FROM (SELECT team_id FROM membership ORDER BY 1)) AS teams,
  (SELECT count(*) FROM task WHERE team_id = 'red') AS red, (SELECT count(*) FROM task WHERE team_id = 'blue') AS blue`;

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await joinTeam('blue', 'anna');
  for (const team of ['red', 'blue']) {
    await server(...Array.from({ length: 5 }, (_, i) => put('task', `${team}-${i}`, { team_id: team, title: 'Task' })));
  }
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await until(anna.db, SEEN, [{ teams: 'blue,red', red: 5, blue: 5 }]);
  await until(ben.db, SEEN, [{ teams: 'red', red: 5, blue: 0 }]);
  const seen = history(anna, SEEN);

  // Online: gone within one checkpoint.
  await server(remove('membership', 'red-anna'));
  await until(anna.db, SEEN, [{ teams: 'blue', red: 0, blue: 5 }]);
  await server(patch('task', 'red-0', { title: 'Secret' }));
  await until(ben.db, `SELECT title FROM task WHERE id = 'red-0'`, [{ title: 'Secret' }]);
  await caughtUp(anna);
  const revoked = { stored: await anna.db.getAll(`SELECT id FROM ps_data__task ORDER BY id`), seen: [...seen] };
  const oplog = await anna.db.getAll(`SELECT row_id FROM ps_oplog WHERE data LIKE '%Secret%'`);

  // Granted again: everything is back, with what happened meanwhile.
  await joinTeam('red', 'anna');
  await until(anna.db, SEEN, [{ teams: 'blue,red', red: 5, blue: 5 }]);
  const granted = await anna.db.getAll(`SELECT title FROM task WHERE id = 'red-0'`);

  // Offline: what was written without the right comes back as refused, and the rows leave all the same.
  await anna.offline();
  await server(remove('membership', 'red-anna'));
  await anna.db.execute(`UPDATE task SET title = 'Too late' WHERE id = 'red-1'`);
  await anna.db.execute(`UPDATE task SET title = 'In time' WHERE id = 'blue-1'`);
  await anna.online();
  await uploaded(anna);
  await until(anna.db, SEEN, [{ teams: 'blue', red: 0, blue: 5 }]);
  await caughtUp(anna, ben);
  return { revoked, oplog, granted, anna: await content(anna), ben: await content(ben) };
});
