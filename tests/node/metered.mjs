// On a metered network the stream that defers stays away; on a free one it comes.

import { caughtUp, joinTeam, phone, put, scenario, server } from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna');
  const city = (_, i) => put('city', `${i}`, { name: `City ${i}`, story: 'Tides' });
  await server(...Array.from({ length: 50 }, city), put('task', '1', { team_id: 'red', title: 'Before' }));
  const anna = await phone('anna', { options: { params: { metered: true } } });
  const { db } = anna;
  const count = async () => ({
    cities: (await db.get('SELECT count(*) AS n FROM city')).n,
    tasks: (await db.get('SELECT count(*) AS n FROM task')).n,
    synced: db.currentStatus.hasSynced
  });
  await db.waitForFirstSync();
  await server(put('task', '2', { team_id: 'red', title: 'Live' }), put('city', '0', { name: 'City', story: 'Ebb' }));
  await caughtUp(anna);
  const metered = await count();
  await anna.offline();
  await anna.online({ params: {} });
  await caughtUp(anna);
  return { metered, free: await count() };
});
