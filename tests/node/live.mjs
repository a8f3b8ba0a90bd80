// What one phone writes, another shows at once, and neither shows anything else in between.

import { caughtUp, content, history, joinTeam, mode, phone, scenario, until, uuid } from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await Promise.all([anna.db.waitForFirstSync(), ben.db.waitForFirstSync()]);
  const here = history(anna, 'SELECT id, title FROM task ORDER BY title');
  const there = history(ben, 'SELECT id, title FROM task ORDER BY title');
  const delays = [];
  for (let i = 0; i < 10; i++) {
    const id = uuid();
    const written = performance.now();
    await anna.db.execute('INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)', [id, 'red', `Task ${i}`]);
    await until(ben.db, 'SELECT title FROM task WHERE id = ?', [{ title: `Task ${i}` }], [id]);
    delays.push(performance.now() - written);
  }
  const [{ id }] = await ben.db.getAll(`SELECT id FROM task WHERE title = 'Task 3'`);
  await ben.db.execute(`UPDATE task SET title = 'Task 3b' WHERE id = ?`, [id]);
  await until(anna.db, 'SELECT title FROM task WHERE id = ?', [{ title: 'Task 3b' }], [id]);
  await ben.db.execute(`DELETE FROM task WHERE title = 'Task 9'`);
  await until(anna.db, `SELECT id FROM task WHERE title = 'Task 9'`, []);
  await caughtUp(anna, ben);
  if (mode === 'requests') {
    // The SDK's own way to be sure of having everything up to now.
    const checkpoint = await ben.db.requestCheckpoint();
    await checkpoint.waitForSync();
    if (!checkpoint.hasSynced) throw new Error('the checkpoint did not come');
  }
  return {
    delays,
    here: here.map((rows) => rows.map((row) => row.title)),
    there: there.map((rows) => rows.map((row) => row.title)),
    anna: await content(anna),
    ben: await content(ben)
  };
});
