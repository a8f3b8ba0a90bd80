// A WatermelonDB phone through what happens to it: refusals, records that vanish, teams that it leaves.

import { joinTeam, put, remove, scenario, server } from './harness.mjs';
import { melon, settle } from './watermelon.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const task = (id, more) => put('task', id, { team_id: 'red', title: id, ...more });
  await server(task('kept'), task('gone'), task('mine'), put('card', 'card', { team_id: 'red', body: 'one' }));
  const [anna, ben] = [await melon('anna'), await melon('ben')];
  await settle(anna, ben);

  // An edit of a record that somebody deletes meanwhile, and of one that an edit revives.
  await anna.change('task', 'gone', { title: 'Late' });
  await anna.change('card', 'card', { body: 'two' });
  await server(remove('task', 'gone'), remove('card', 'card'));
  // A change and a creation that are not allowed.
  await anna.change('task', 'mine', { team_id: 'blue' });
  await anna.make('task', 'stray', { team_id: 'blue', title: 'stray' });
  await anna.remove('task', 'kept');
  await settle(anna, ben);
  const refused = Object.values(await anna.rows('lowtide_rejections')).map(({ code, record_id }) => [record_id, code]);
  const after = { anna: await anna.rows('task'), cards: await ben.rows('card') };

  await server(remove('membership', 'red-anna'));
  await settle(anna);
  const left = await anna.rows('task');
  await joinTeam('red', 'anna');
  await settle(anna);
  return { refused: refused.sort(), after, left, back: Object.keys(await anna.rows('task')), dirty: await anna.dirty('task') };
});
