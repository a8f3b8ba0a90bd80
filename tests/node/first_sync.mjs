// A new phone receives what its user may see, and nothing else.

import { content, joinTeam, phone, put, scenario, server } from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna');
  await joinTeam('blue', 'ben');
  const tasks = (team, count) =>
    Array.from({ length: count }, (_, i) => put('task', `${team}-${i}`, { team_id: team, title: `Task ${i}` }));
  await server(...tasks('red', 3_000));
  await server(...tasks('blue', 10));
  const anna = await phone('anna');
  await anna.db.waitForFirstSync();
  return {
    content: await content(anna),
    hasSynced: anna.db.currentStatus.hasSynced,
    queue: (await anna.db.getUploadQueueStats()).count
  };
});
