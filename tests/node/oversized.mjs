// A transaction that no server takes does not stop what is behind it.

import { caughtUp, content, joinTeam, phone, scenario, uploaded } from './harness.mjs';

const TASK = 'INSERT INTO task(id, team_id, title, notes) VALUES (?, ?, ?, ?)';

await scenario(async () => {
  await joinTeam('red', 'anna');
  const anna = await phone('anna', { online: false });
  const { db } = anna;
  const many = (name, count, notes) =>
    db.writeTransaction(async (tx) => {
      for (let i = 0; i < count; i++) await tx.execute(TASK, [`${name}-${i}`, 'red', name, notes]);
    });
  await db.execute(TASK, ['before', 'red', 'before', '']);
  await many('most', 5_000, ''); // just what is allowed
  await many('many', 5_001, '');
  await many('heavy', 100, 'x'.repeat(200_000));
  await many('fat', 1, 'x'.repeat(300_000)); // one record beyond its limit
  await db.execute(TASK, ['after', 'red', 'after', '']);
  await anna.online();
  await uploaded(anna);
  await caughtUp(anna);
  const { task, lowtide_rejections } = await content(anna);
  const counts = {};
  for (const { title } of task) counts[title] = (counts[title] ?? 0) + 1;
  return { counts, rejections: lowtide_rejections, heard: anna.refused };
});
