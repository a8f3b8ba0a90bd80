// A large first download over connections that are cut in the middle of a frame, then live over a sound one.

import { connect, createServer } from 'node:net';
import { caughtUp, content, joinTeam, patch, phone, put, scenario, server, until, url } from './harness.mjs';

const ROWS = 50_000;
const BATCH = 5_000;
const CUTS = [100, 2_000, 50_000, 150_000, 300_000]; // bytes that a WebSocket may bring, one after the other

/** Passes everything on, but cuts each WebSocket after its share of `CUTS`. */
function proxy() {
  const seen = { sockets: 0, cut: 0 };
  const target = new URL(url);
  const listener = createServer((near) => {
    const far = connect(Number(target.port), target.hostname);
    let left = Infinity;
    let first = true;
    const end = () => (near.destroy(), far.destroy());
    near.on('data', (data) => {
      if (first && /upgrade: websocket/i.test(data.toString('latin1'))) left = CUTS[seen.sockets++] ?? Infinity;
      first = false;
      far.write(data);
    });
    far.on('data', (data) => {
      near.write(data.subarray(0, Math.min(left, data.length)));
      left -= data.length;
      if (left > 0) return;
      seen.cut++;
      near.end();
      far.destroy();
    });
    for (const socket of [near, far]) socket.on('error', end).on('close', end);
  });
  return new Promise((resolve) => {
    listener.listen(0, '127.0.0.1', () => {
      resolve({ seen, endpoint: `http://127.0.0.1:${listener.address().port}` });
    });
  });
}

await scenario(async () => {
  const { seen, endpoint } = await proxy();
  await joinTeam('red', 'anna');
  for (let first = 0; first < ROWS; first += BATCH) {
    const tasks = Array.from({ length: BATCH }, (_, i) => first + i);
    await server(...tasks.map((i) => put('task', `t${i}`, { team_id: 'red', title: `Task ${i}`, estimate: i })));
  }
  const anna = await phone('anna', { connecting: { endpoint } });
  await anna.db.waitForFirstSync();
  const first = await anna.db.get('SELECT count(*) AS n, sum(estimate) AS sum FROM task');
  await server(patch('task', 't7', { title: 'Changed' }));
  await until(anna.db, `SELECT title FROM task WHERE id = 't7'`, [{ title: 'Changed' }]);
  await anna.db.execute(`UPDATE task SET title = 'Answered' WHERE id = 't8'`);
  await caughtUp(anna);
  const changed = await anna.db.getAll(`SELECT title FROM task WHERE id IN ('t7', 't8') ORDER BY id`);
  return { first, changed, ...seen, rejections: (await content(anna)).lowtide_rejections };
});
