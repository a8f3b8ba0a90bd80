// Two phones change every field of one task without knowing of each other, then meet.

import {
  caughtUp,
  content,
  given,
  joinTeam,
  phone,
  put,
  scenario,
  server,
  sleep,
  until,
  uploaded
} from './harness.mjs';

const START = {
  team_id: 'red',
  title: 'Start',
  notes: 'one\ntwo\nthree\n',
  page: given.page,
  votes: 10,
  tags: '["a","b"]',
  steps: '["one","two"]',
  best: 3,
  least: 3
};

const change = (phone, values) => {
  const names = Object.keys(values);
  const sql = `UPDATE task SET ${names.map((name) => `${name} = ?`).join(', ')} WHERE id = 'task'`;
  return phone.db.execute(sql, Object.values(values));
};

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', START), put('task', 'gone', { team_id: 'red', title: 'Start' }));
  await server(put('card', 'card', { team_id: 'red', body: 'Start' }));
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  for (const { db } of [anna, ben]) await until(db, 'SELECT body FROM card', [{ body: 'Start' }]);
  await Promise.all([anna.offline(), ben.offline()]);

  await change(anna, {
    title: 'Anna',
    notes: 'ONE\ntwo\nthree\n',
    page: given.anna,
    votes: 12,
    tags: '["b","x"]',
    steps: '["zero","one","two"]',
    best: 5,
    least: 1,
    opener: 'anna',
    state: 'done'
  });
  await sleep(30);
  await change(ben, {
    title: 'Ben',
    notes: 'one\ntwo\nTHREE\n',
    page: given.ben,
    votes: 13,
    tags: '["a","b","y"]',
    steps: '["one","two","three"]',
    best: 9,
    least: 2,
    opener: 'ben',
    state: 'doing'
  });
  // A deletion against an edit: on a model where it wins, and on one where the edit does.
  for (const table of ['task', 'card']) await ben.db.execute(`DELETE FROM ${table} WHERE id IN ('gone', 'card')`);
  await anna.db.execute(`UPDATE task SET title = 'Edited' WHERE id = 'gone'`);
  await anna.db.execute(`UPDATE card SET body = 'Edited' WHERE id = 'card'`);
  const before = { anna: await content(anna), ben: await content(ben) };

  // Ben wrote later and arrives first: who wins is not who is first on the network.
  await ben.online();
  await uploaded(ben);
  await anna.online();
  await caughtUp(anna, ben);
  return { before, anna: await content(anna), ben: await content(ben), refused: [...anna.refused, ...ben.refused] };
});
