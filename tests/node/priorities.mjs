// What matters arrives first, and is shown while the rest is still on its way.

import { joinTeam, phone, put, scenario, server } from './harness.mjs';

const STORY = 'And then the tide went out. '.repeat(20);

await scenario(async () => {
  await joinTeam('red', 'anna');
  for (let page = 0; page < 4; page++) {
    const city = (_, i) => put('city', `${page}-${i}`, { name: `City ${i}`, story: `${page}/${i} ${STORY}` });
    await server(...Array.from({ length: 2_000 }, city));
  }
  await server(put('alarm', 'flood', { text: 'Flood' }), put('task', 'task', { team_id: 'red', title: 'Flee' }));
  const anna = await phone('anna', { online: false });
  const { db } = anna;
  const steps = [];
  const note = async (what) => {
    steps.push({
      what,
      alarms: (await db.get('SELECT count(*) AS n FROM alarm')).n,
      tasks: (await db.get('SELECT count(*) AS n FROM task')).n,
      cities: (await db.get('SELECT count(*) AS n FROM city')).n,
      all: db.currentStatus.hasSynced ?? false
    });
  };
  const waits = [0, 2].map((priority) => db.waitForFirstSync({ priority }).then(() => note(priority)));
  await anna.online();
  await Promise.all(waits);
  await db.waitForFirstSync();
  await note('all');
  return steps;
});
