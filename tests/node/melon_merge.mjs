// Two WatermelonDB phones change the same record offline; one answer is lost.

import { joinTeam, put, scenario, server } from './harness.mjs';
import { melon, settle } from './watermelon.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Start', votes: 5, tags: '["a"]', notes: 'one two' }));
  const [anna, ben] = [await melon('anna'), await melon('ben')];
  await anna.sync();
  await ben.sync();
  const first = await anna.rows('task');
  await anna.change('task', 'task', { votes: 7, tags: '["a","b"]', title: 'Anna' });
  await ben.change('task', 'task', { votes: 6, tags: '["c"]', estimate: 3 });
  await ben.make('task', 'new', { team_id: 'red', title: 'Fresh', notes: '', votes: 1, tags: '[]', state: 'todo' });
  anna.lose = 1;
  const lost = await anna.sync().then(
    () => 'no',
    (error) => error.message
  );
  await anna.change('task', 'task', { votes: 8 });
  await settle(ben, anna);
  // Nothing is pulled in between: the next change goes on from what was pushed.
  await anna.change('task', 'task', { votes: (await anna.rows('task')).task.votes + 1 });
  await ben.change('task', 'new', { votes: 2 });
  await settle(anna, ben);
  return {
    first,
    lost,
    anna: await anna.rows('task'),
    ben: await ben.rows('task'),
    dirty: [await anna.dirty('task'), await ben.dirty('task')]
  };
});
