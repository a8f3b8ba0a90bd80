// The server is killed, twice, while two phones write: they come back by themselves, and nothing is lost.

import { ask, caughtUp, content, joinTeam, phone, put, scenario, server, sleep, until } from './harness.mjs';

const WRITES = 150;

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'shared', { team_id: 'red', title: 'Shared' }));
  const phones = [await phone('anna'), await phone('ben')];
  for (const { db } of phones) await until(db, 'SELECT title FROM task', [{ title: 'Shared' }]);
  const write = async ({ name, db }) => {
    for (let i = 0; i < WRITES; i++) {
      await db.writeTransaction(async (tx) => {
        await tx.execute('INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)', [`${name}-${i}`, 'red', 'Task']);
        await tx.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'shared'`);
      });
      await sleep(5);
    }
  };
  const crash = async () => {
    for (let i = 0; i < 2; i++) {
      await sleep(200);
      await ask('kill');
      await sleep(100);
      await ask('start');
    }
  };
  await Promise.all([...phones.map(write), crash()]);
  await caughtUp(...phones);
  return { anna: await content(phones[0]), ben: await content(phones[1]), tokens: phones.map((p) => p.tokens) };
});
