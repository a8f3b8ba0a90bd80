// Tokens expire in mid-stream: fresh ones are fetched, nothing is lost, and nobody is signed out.

import { caughtUp, content, joinTeam, phone, scenario, sleep, until, uploaded } from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const [anna, ben] = [await phone('anna', { ttl: 1 }), await phone('ben', { ttl: 1 })];
  await Promise.all([anna.db.waitForFirstSync(), ben.db.waitForFirstSync()]);
  for (let i = 0; i < 25; i++) {
    await anna.db.execute('INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)', [`${i}`, 'red', `Task ${i}`]);
    await sleep(100);
  }
  await uploaded(anna);
  await until(ben.db, 'SELECT count(*) AS n FROM task', [{ n: 25 }]);
  const refreshed = { anna: anna.tokens, ben: ben.tokens };

  // Nobody can be asked for a token: what is on the phone stays, and goes out later.
  const { getToken } = anna;
  let failures = 0;
  anna.getToken = async () => {
    failures++;
    throw new Error('no network');
  };
  await anna.db.execute(`UPDATE task SET title = 'Meanwhile' WHERE id = '0'`);
  while (failures < 3) await sleep(50);
  const rows = (await anna.db.get('SELECT count(*) AS n FROM task')).n;
  anna.getToken = getToken;
  await until(ben.db, `SELECT title FROM task WHERE id = '0'`, [{ title: 'Meanwhile' }]);
  await caughtUp(anna, ben);
  return { refreshed, failures, rows, anna: await content(anna), ben: await content(ben) };
});
