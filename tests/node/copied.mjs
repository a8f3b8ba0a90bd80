// A phone's backup is put on another phone: two devices have one name, and both go on, each change once.

import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  caughtUp,
  content,
  folder,
  joinTeam,
  phone,
  put,
  scenario,
  server,
  until,
  uploaded
} from './harness.mjs';

await scenario(async () => {
  await joinTeam('red', 'anna');
  await server(put('task', 'task', { team_id: 'red', title: 'Shared' }));
  const vote = ({ db }) => db.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'task'`);
  const before = await phone('anna');
  await until(before.db, 'SELECT title FROM task', [{ title: 'Shared' }]);
  await vote(before);
  await uploaded(before);
  await before.db.close();
  for (const suffix of ['', '-wal']) {
    await copyFile(join(folder, `anna.db${suffix}`), join(folder, `copy.db${suffix}`)).catch(() => {});
  }

  const first = await phone('anna');
  await vote(first);
  await uploaded(first);
  const second = await phone('anna', { file: 'copy.db' });
  await second.db.execute(`UPDATE task SET title = 'From the copy', votes = votes + 1 WHERE id = 'task'`);
  await uploaded(second);
  for (const each of [first, second, first, second]) {
    await vote(each);
    await uploaded(each);
  }
  await caughtUp(first, second);
  return {
    names: [await first.db.getClientId(), await second.db.getClientId()],
    first: await content(first),
    second: await content(second)
  };
});
