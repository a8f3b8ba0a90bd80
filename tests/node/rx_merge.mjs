// Two RxDB phones change the same record offline and live; answers are lost.

import { joinTeam, put, scenario, server } from './harness.mjs';
import { eventually, lossy, rx } from './rx.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Start', votes: 5, tags: '["a"]' }));
  const [anna, ben] = [await rx('anna'), await rx('ben')];
  for (const phone of [anna, ben]) await eventually(async () => (await phone.rows('task')).task);
  const first = await anna.rows('task');
  await Promise.all([anna.offline(), ben.offline()]);
  
  await anna.change('task', 'task', { votes: 7, tags: ['a', 'b'], title: 'Anna' });
  await ben.change('task', 'task', { votes: 6, tags: ['c'], estimate: 3 });
  await ben.make('task', 'new', { team_id: 'red', title: 'Fresh', votes: 1 });
  lossy(anna);
  anna.lose = 2;
  anna.online();
  await eventually(() => anna.lose === 0);
  await anna.change('task', 'task', { votes: (await anna.rows('task')).task.votes + 1 });
  ben.online();
  for (const phone of [anna, ben])
    await eventually(async () => (await phone.rows('task')).task.votes === 9 && (await phone.rows('task')).new);
  // Live, both ways.
  await ben.change('task', 'new', { votes: 2 });
  await eventually(async () => (await anna.rows('task')).new.votes === 2);
  await anna.change('task', 'new', { votes: 3, state: 'done' });
  await eventually(async () => (await ben.rows('task')).new.votes === 3);
  
  for (const phone of [anna, ben]) await phone.synced();
  return { first, anna: await anna.rows('task'), ben: await ben.rows('task'), lost: anna.errors.length };
});
