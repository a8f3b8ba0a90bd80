// The app of a year ago goes on working while the server and another phone have moved on.

import { ask, caughtUp, content, joinTeam, phone, scenario, sleep, until, uploaded } from './harness.mjs';
import { CREW_LAST_YEAR } from './schema.mjs';

const OLD = 'INSERT INTO task(id, team_id, title, remark, colour) VALUES (?, ?, ?, ?, ?)';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const old = await phone('anna', { schema: CREW_LAST_YEAR });
  await old.db.execute(OLD, ['first', 'red', 'First', 'one\ntwo\nthree\n', 'red']);
  await uploaded(old);

  // The server moves on, with a write of the old version still under way.
  await old.offline();
  await old.db.execute(OLD, ['late', 'red', 'Late', 'written before', 'blue']);
  await ask('stop');
  await ask('deploy', { app: 'crew' });
  await ask('start');
  await old.online();
  await uploaded(old);

  const ben = await phone('ben');
  await until(ben.db, 'SELECT notes, estimate, state FROM task ORDER BY id', [
    { notes: 'one\ntwo\nthree\n', estimate: null, state: 'todo' },
    { notes: 'written before', estimate: null, state: 'todo' }
  ]);

  // Both at once, without knowing of each other, on the field that has two names.
  await Promise.all([old.offline(), ben.offline()]);
  await old.db.execute(`UPDATE task SET remark = 'ONE\ntwo\nthree\n', votes = votes + 1 WHERE id = 'first'`);
  await old.db.execute(`UPDATE task SET colour = 'green' WHERE id = 'late'`);
  await sleep(20);
  await ben.db.execute(`UPDATE task SET notes = 'one\ntwo\nTHREE\n', votes = votes + 1, estimate = 8 WHERE id = 'first'`);
  await ben.db.execute(`UPDATE task SET title = 'Later' WHERE id = 'late'`);
  await ben.db.execute(`INSERT INTO task(id, team_id, title, notes) VALUES ('new', 'red', 'New', 'of today')`);
  await ben.db.execute(`INSERT INTO handle(id, name) VALUES ('ben', 'ben')`);
  await Promise.all([old.online(), ben.online()]);
  for (const each of [old, ben]) await uploaded(each);
  await caughtUp(ben);
  await until(old.db, `SELECT remark FROM task WHERE id = 'first'`, [{ remark: 'ONE\ntwo\nTHREE\n' }]);
  await until(old.db, `SELECT title, remark FROM task WHERE id = 'new'`, [{ title: 'New', remark: 'of today' }]);
  await old.db.execute(`UPDATE task SET remark = 'from the past' WHERE id = 'new'`);
  await uploaded(old);
  await until(ben.db, `SELECT notes FROM task WHERE id = 'new'`, [{ notes: 'from the past' }]);
  await until(old.db, `SELECT title FROM task WHERE id = 'late'`, [{ title: 'Later' }]);
  await caughtUp(ben);
  const before = { old: await content(old), ben: await content(ben) };

  // At last the old phone gets the new version, with a change in its queue.
  await old.offline();
  await old.db.execute(`UPDATE task SET remark = 'goodbye' WHERE id = 'late'`);
  await old.db.close();
  const upgraded = await phone('anna');
  await uploaded(upgraded);
  await until(ben.db, `SELECT notes FROM task WHERE id = 'late'`, [{ notes: 'goodbye' }]);
  await caughtUp(upgraded, ben);
  return { before, after: { upgraded: await content(upgraded), ben: await content(ben) } };
});
