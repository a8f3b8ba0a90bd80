// A transaction that no server takes does not stop what is behind it.

import { caughtUp, content, joinTeam, phone, scenario } from './harness.mjs';

const TASKS = `WITH RECURSIVE counted(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM counted WHERE i + 1 < ?)
  INSERT INTO task(id, team_id, title, notes) SELECT ? || '-' || i, 'red', ?, ? FROM counted`;

await scenario(async () => {
  await joinTeam('red', 'anna');
  const anna = await phone('anna', { online: false });
  const { db } = anna;
  const write = (name, count, notes = '') => db.execute(TASKS, [count, name, name, notes]);
  await write('before', 1);
  await write('most', 5_000); // just what is allowed
  await write('many', 5_001);
  await write('heavy', 100, 'x'.repeat(200_000));
  await write('fat', 1, 'x'.repeat(300_000)); // one record beyond its limit
  await write('after', 1);
  await anna.online();
  await caughtUp(anna);
  const { task, lowtide_rejections } = await content(anna);
  const counts = {};
  for (const { title } of task) counts[title] = (counts[title] ?? 0) + 1;
  const rejections = lowtide_rejections.map(({ data, ...rest }) => ({ ...rest, size: data.length }));
  return { counts, rejections, heard: anna.refused };
});
