// A version of the app that is no longer served gives up what it holds, and receives nothing until it is updated.

import { joinTeam, phone, put, scenario, server, sleep, until, uploaded } from './harness.mjs';

const OLD = 'ios/2.0.9 (7)';
const INSERT = 'INSERT INTO task(id, team_id, title) VALUES (?, ?, ?)';
const TITLES = 'SELECT title FROM task ORDER BY title';
const titles = (...wanted) => wanted.map((title) => ({ title }));

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const outdated = [];
  const anna = await phone('anna', {
    online: false,
    options: { appMetadata: { app_version: OLD } },
    connecting: { appVersion: OLD, onOutdated: (event) => outdated.push(event) }
  });
  const ben = await phone('ben');
  await anna.db.execute(INSERT, ['t1', 'red', 'made without a network']);
  await anna.online();
  await uploaded(anna);
  while (outdated.length === 0) await sleep(10);

  // Also what is changed afterwards, while every download is refused.
  await anna.db.execute(INSERT, ['t2', 'red', 'made when it was too old']);
  await uploaded(anna);
  await server(put('task', 't3', { team_id: 'red', title: 'of the server' }));
  const all = titles('made when it was too old', 'made without a network', 'of the server');
  await until(ben.db, TITLES, all);
  const { connected, hasSynced, downloadError } = anna.db.currentStatus;
  const before = { connected, hasSynced: hasSynced ?? false, refused: downloadError?.message.includes('app_too_old') };

  await anna.offline();
  await anna.online({ appMetadata: { app_version: 'ios/2.1.0' } });
  await until(anna.db, TITLES, all);
  return { before, outdated, statuses: [...new Set(anna.uploads.map(({ status }) => status))] };
});
