// A stream on request: only what was asked for comes, and it leaves when nobody wants it any more.

import { caughtUp, joinTeam, phone, put, scenario, server, sleep, until } from './harness.mjs';

const HERE = 'SELECT topic, body FROM article ORDER BY id';

await scenario(async () => {
  await joinTeam('red', 'anna');
  await server(
    put('article', 'a', { topic: 'sea', body: 'Tides' }),
    put('article', 'b', { topic: 'sky', body: 'Clouds' }),
    put('minute', 'm', { team_id: 'red', body: 'We met.' }),
    put('minute', 'x', { team_id: 'blue', body: 'They met.' })
  );
  const anna = await phone('anna');
  const { db } = anna;
  await db.waitForFirstSync();
  await caughtUp(anna);
  const unasked = await db.getAll(HERE);

  const sea = await db.syncStream('articles', { topic: 'sea' }).subscribe({ ttl: 1 });
  await sea.waitForFirstSync();
  const asked = await db.getAll(HERE);
  await server(put('article', 'c', { topic: 'sea', body: 'Waves' }), put('article', 'd', { topic: 'sky', body: 'Rain' }));
  await until(db, HERE, [{ topic: 'sea', body: 'Tides' }, { topic: 'sea', body: 'Waves' }]);
  const sky = await db.syncStream('articles', { topic: 'sky' }).subscribe();
  await sky.waitForFirstSync();
  const both = await db.getAll(HERE);

  // Somebody else's team, and a stream that is not there: neither stops the rest.
  const red = await db.syncStream('minutes', { team_id: 'red' }).subscribe();
  const blue = await db.syncStream('minutes', { team_id: 'blue' }).subscribe();
  await db.syncStream('nonsense', { of: 'mine' }).subscribe();
  await red.waitForFirstSync();
  await blue.waitForFirstSync();
  await caughtUp(anna);
  const minutes = await db.getAll('SELECT body FROM minute');

  // Nobody wants the sea: after its time it goes, also from the disk. The sky stays.
  sea.unsubscribe();
  await sleep(1_200);
  await anna.offline();
  await anna.online();
  await until(db, 'SELECT DISTINCT topic FROM article', [{ topic: 'sky' }]);
  await caughtUp(anna);
  return { unasked, asked, both, minutes, left: await db.getAll('SELECT id FROM ps_data__article ORDER BY id') };
});
