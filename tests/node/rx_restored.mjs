// A backup of the server is put back while an RxDB phone is away: it begins anew, and keeps what it wrote.

import { ask, joinTeam, put, remove, scenario, server } from './harness.mjs';
import { eventually, rx } from './rx.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const task = (id) => put('task', id, { team_id: 'red', title: id });
  await server(task('kept'), task('lost'));
  const anna = await rx('anna');
  const ids = async (phone) => Object.keys(await phone.rows('task'));
  await eventually(async () => (await ids(anna)).length === 2);
  const before = await ids(anna);
  await anna.offline();
  await anna.make('task', 'mine', { team_id: 'red', title: 'mine' });
  await server(remove('task', 'lost'));
  await ask('restore');
  anna.online();
  await eventually(async () => (await ids(anna)).join() === 'kept,mine');
  const ben = await rx('ben');
  await eventually(async () => (await ids(ben)).length === 2);
  return { before, after: await ids(anna), server: await ids(ben) };
});
