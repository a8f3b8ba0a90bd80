// What an app does with the package beside SQL: functions, commands, refusals, conflicts, finishing, leaving.

import { isError, Lowtide } from '@lowtide/client';
import { caughtUp, content, given, joinTeam, patch, phone, put, scenario, server, sleep, until, uploaded, url } from './harness.mjs';
import { mailbox } from './mailbox.mjs';
import { network, open, prove } from './people.mjs';

const SYNC = { sync: { retryDelayMs: 100, crudUploadThrottleMs: 10 } };
const HANDLE = 'INSERT INTO handle(id, name) VALUES (?, ?)';
const TASK = 'SELECT title, votes FROM task';
const CLOSE = '/v1/functions/close_task';
const failure = (promise) => promise.then(() => 'no error', ({ code }) => code);

await scenario(async () => {
  const report = {};
  const mail = await mailbox(given.smtp);
  const session = await open('anna');
  await session.signIn.anonymous();
  const user = session.user.id;
  await joinTeam('red', user, 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Sail', votes: 1 }));
  const [anna, ben] = [await phone('anna', { online: false }), await phone('ben')];
  const { db } = anna;
  const net = network();
  const lowtide = new Lowtide(db, { tokens: session, fetch: net.fetch });
  const [refused, merged, stop] = [[], [], []];
  lowtide.on('refused', (each) => refused.push(...each));
  stop.push(lowtide.on('merged', (each) => merged.push(...each)));
  lowtide.on('upload', () => {
    throw new Error('a listener that throws'); // reported by the platform, and nobody else's business
  });
  const thrown = [];
  process.on('uncaughtException', (error) => thrown.push(error.message));
  await lowtide.connect(SYNC);
  await until(db, TASK, [{ title: 'Sail', votes: 1 }]);

  // A call whose answer is lost twice runs once.
  let losses = 2;
  net.between = ({ path }) => {
    if (path !== CLOSE || losses-- <= 0) return;
    throw new TypeError('fetch failed');
  };
  const result = await lowtide.call('close_task', { task_id: 'task', reason: 'dark' });
  const again = await lowtide.call('close_task', { task_id: 'task' }).catch(({ code, problem }) => [code, problem.refusal]);
  await until(db, TASK, [{ title: 'Sail (dark)', votes: 2 }]);
  report.call = { result: { ...result, by: result.by === user }, again, sent: net.count(CLOSE), none: await failure(lowtide.call('nothing', {})) };
  net.between = null;

  // Commands, made without a network, waited for over a start.
  await lowtide.disconnect();
  await server(put('task', 'second', { team_id: 'red', title: 'Row' }), put('task', 'third', { team_id: 'red', title: 'Drift' }));
  const good = await lowtide.command('close_task', { task_id: 'second', reason: 'late' });
  const bad = await lowtide.command('close_task', { task_id: 'nothing' });
  const large = await lowtide.command('close_task', { task_id: 'x'.repeat(70_000) });
  const unsent = await lowtide.command('close_task', { task_id: 'third' });
  await unsent.dismiss();
  const before = await good.status();
  const nobody = await failure(good.result(AbortSignal.timeout(50)));
  const found = lowtide.functions.find(good.id);
  await lowtide.connect(SYNC);
  report.command = {
    before,
    nobody,
    was: (await found.result()).was,
    status: await good.status(),
    bad: await bad.result().catch(({ code, message, hint }) => ({ code, message, hint: typeof hint })),
    large: await failure(large.result()),
    unsent: await failure(unsent.result()),
    third: await db.get(`SELECT title FROM task WHERE id = 'third'`),
    unknown: await lowtide.functions.find('no such').status()
  };
  await good.dismiss();
  await lowtide.rejections.dismiss(...(await lowtide.rejections.list()).map(({ id }) => id));

  // Refusals: seen, put right, made again, forgotten.
  await lowtide.flush();
  refused.length = 0;
  await db.execute(HANDLE, ['mine', 'rude word']);
  await db.execute(`INSERT INTO task(id, team_id, title, _metadata) VALUES ('blue', 'blue', 'Not mine', 'form 7')`);
  await db.execute(`UPDATE task SET approved = 1, title = 'Sailed' WHERE id = 'task'`);
  const watching = new AbortController();
  for await (const list of lowtide.rejections.watch(watching.signal)) {
    if (list.length < 3) continue;
    report.rejections = list.map(({ code, op, model, record, data, metadata, at }) => ({
      ...{ code, op, model, record, data, metadata },
      recent: Math.abs(Date.now() - at) < 60_000
    }));
    break;
  }
  report.refused = refused.map(({ code, model, id }) => [code, model, id]);
  const [name, foreign, approved] = await lowtide.rejections.list();
  await lowtide.rejections.retry(name.id, { name: 'polite' });
  await lowtide.rejections.retry(foreign.id, { team_id: 'red' });
  await lowtide.rejections.dismiss(approved.id);
  await lowtide.flush();
  report.retried = {
    left: await lowtide.rejections.list(),
    none: await failure(lowtide.rejections.retry(name.id)),
    ben: await until(ben.db, 'SELECT name FROM handle', [{ name: 'polite' }]).then(() => true),
    title: await until(ben.db, `SELECT title FROM task WHERE id = 'blue'`, [{ title: 'Not mine' }]).then(() => true)
  };

  // What is made once more is the same change, on what others have left there: also before this device has heard of it.
  await server(put('task', 'bail', { team_id: 'red', title: 'Bail', votes: 1, tags: '["wind"]', notes: 'one two three' }));
  await until(db, `SELECT votes FROM task WHERE id = 'bail'`, [{ votes: 1 }]);
  const long = 'x'.repeat(81);
  const first = `UPDATE task SET title = ?, votes = votes + 2, tags = '["wind","rain"]', notes = 'one 2 three' WHERE id = 'bail'`;
  await db.execute(first, [long]);
  for await (const [one] of lowtide.rejections.watch()) if (one) break;
  const others = { votes: 10, tags: '["wind","calm"]', notes: 'one two three four' };
  await server(patch('task', 'bail', others));
  await until(db, `SELECT votes FROM task WHERE id = 'bail'`, [{ votes: 10 }]);
  await lowtide.disconnect();
  await lowtide.rejections.retry((await lowtide.rejections.list())[0].id, { title: 'Bailed' });
  await db.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'bail'`);
  await server(patch('task', 'bail', { votes: 20 }));
  await lowtide.connect(SYNC);
  const bail = `SELECT title, votes, tags, notes FROM task WHERE id = 'bail'`;
  const same = { title: 'Bailed', votes: 23, tags: '["wind","calm","rain"]', notes: 'one 2 three four' };
  await until(ben.db, bail, [same]);
  await until(db, bail, [same]);
  report.retried.same = [await lowtide.rejections.list(), await db.getAll(`SELECT * FROM lowtide_upload WHERE key GLOB 'change:*'`)];
  merged.length = 0;

  // A conflict: heard of, looked at, put back.
  await lowtide.disconnect();
  await db.execute(`UPDATE task SET title = 'By Anna' WHERE id = 'second'`);
  await sleep(30);
  await ben.db.execute(`UPDATE task SET title = 'By Ben' WHERE id = 'second'`);
  await uploaded(ben);
  const flushed = await lowtide.flush(); // without a connection, as in a background task
  const conflicts = [];
  for await (const conflict of lowtide.conflicts.of('task', 'second')) conflicts.push(conflict);
  const [lost] = conflicts;
  report.conflict = { flushed, merged: [...merged], lost: [lost.field, lost.lost, lost.won, lost.restored_at, conflicts.length] };
  await lowtide.conflicts.restore(lost.id);
  await lowtide.connect(SYNC);
  await until(db, `SELECT title FROM task WHERE id = 'second'`, [{ title: 'By Anna' }]);
  stop.forEach((each) => each());

  // A server that has had enough is left alone, and asked again when the network is back.
  await caughtUp(ben);
  let busy = true;
  let asked = 0;
  const { fetch } = globalThis;
  globalThis.fetch = async (address, options) => {
    if (!address.endsWith('/v1/sync/batches') || !busy) return fetch(address, options);
    asked++;
    return Response.json({ code: 'unavailable', detail: 'Too much.' }, { status: 503, headers: { 'retry-after': '1' } });
  };
  await db.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'task'`);
  await sleep(2_500); // the SDK asks ten times a second
  const pauses = asked;
  busy = false;
  report.pauses = { asked: pauses, flushed: await lowtide.flush() };
  globalThis.fetch = fetch;

  // A task in the background has its answer in time, whatever hangs: a network that heeds no signal, or the database.
  await lowtide.disconnect();
  const timed = async (hang) => {
    const began = Date.now();
    const gone = await Promise.all([lowtide.flush(300), hang]);
    return [gone[0], Date.now() - began < 5_000];
  };
  await db.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'bail'`);
  net.between = () => new Promise(() => {});
  report.hanging = [await timed()];
  net.between = null;
  let unlock = () => {};
  const locked = db.writeLock(() => new Promise((resolve) => (unlock = resolve)));
  report.hanging.push(await timed());
  unlock();
  await locked;
  report.hanging.push(await lowtide.flush(), await lowtide.waiting());

  // Leaving: not while something waits; the next user of this phone finds nothing.
  await lowtide.disconnect();
  await db.execute(`UPDATE task SET votes = votes + 1 WHERE id = 'task'`);
  const leaving = await lowtide.signOut().catch((error) => (isError(error) ? [error.code, error.message, session.state.status] : error));
  await lowtide.flush();
  await lowtide.signOut();
  report.left = { leaving, content: await content(anna), status: session.state.status };
  await lowtide.connect(SYNC); // begins with the sign-in
  const connected = db.connected;
  await prove(session, 'carla@example.com', mail);
  await joinTeam('red', session.user.id);
  await until(db, TASK + ` WHERE id = 'task'`, [{ title: 'Sail (dark)', votes: 4 }]);
  // Somebody else signs in on the same phone: what waits is nobody's but hers.
  await lowtide.disconnect();
  await db.execute(HANDLE, ['carla', 'carla']);
  await lowtide.connect({ ...SYNC, metered: 'ignore' });
  await uploaded(anna);
  await lowtide.disconnect();
  await db.execute(HANDLE, ['hers', 'only hers']);
  await session.signOut();
  await session.signIn.anonymous();
  report.other = {
    connected,
    early: await failure(lowtide.connect(SYNC)),
    flush: [await lowtide.flush(), await lowtide.waiting()]
  };
  await lowtide.discardOther();
  await caughtUp(ben);
  report.other.after = [await lowtide.waiting(), (await db.getAll('SELECT id FROM task')).length];
  report.other.ben = (await ben.db.getAll('SELECT id FROM handle ORDER BY id')).map(({ id }) => id);
  await lowtide.close();
  mail.close();
  report.thrown = [...new Set(thrown)];
  return report;
});
