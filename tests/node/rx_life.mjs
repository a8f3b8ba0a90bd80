// An RxDB phone through what happens to it: refusals, records that vanish, teams that it leaves.

import { joinTeam, patch, put, remove, scenario, server } from './harness.mjs';
import { eventually, rx } from './rx.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna');
  const task = (id) => put('task', id, { team_id: 'red', title: id });
  await server(task('gone'), task('mine'), put('card', 'card', { team_id: 'red', body: 'one' }));
  const anna = await rx('anna', { names: ['task', 'card', 'lowtide_rejections'] });
  const ids = async (name) => Object.keys(await anna.rows(name)).join();
  await eventually(async () => (await ids('task')) === 'gone,mine' && (await ids('card')) === 'card');
  await anna.offline();
  await anna.change('task', 'gone', { title: 'Late' });
  await anna.change('task', 'mine', { team_id: 'blue' });
  await anna.make('task', 'stray', { team_id: 'blue', title: 'stray' });
  await anna.remove('card', 'card');
  await server(remove('task', 'gone'), patch('card', 'card', { body: 'two' }));
  anna.online();
  await eventually(async () => (await ids('task')) === 'mine' && (await ids('lowtide_rejections')).includes(','));
  await eventually(async () => (await anna.rows('card')).card?.body === 'two');
  const after = await anna.rows('task');
  const refused = Object.values(await anna.rows('lowtide_rejections')).map(({ code, record_id }) => [record_id, code]);
  await server(remove('membership', 'red-anna'));
  await eventually(async () => (await ids('task')) === '' && (await ids('card')) === '');
  await joinTeam('red', 'anna');
  await eventually(async () => (await ids('task')) === 'mine' && (await ids('card')) === 'card');
  return { after, refused: refused.sort(), errors: anna.errors.length };
});
