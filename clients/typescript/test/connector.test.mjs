// The upload's answers, one by one: what the connector does with each, and how long it waits.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { LowtideConnector } from '../dist/connector.js';

/** A device with `count` transactions of one change each, and a server whose next answers are `answers`. */
function device(count, answers, { title = 'T', ...more } = {}) {
  const self = { sent: [], queue: Array.from({ length: count }, (_, i) => i + 1), notes: new Map(), heard: [] };
  const entry = (n) => ({ clientId: n, id: `r${n}`, op: 'PUT', table: 'task', opData: { title: `${title}${n}` } });
  self.db = {
    async *getCrudTransactions() {
      for (const n of [...self.queue]) {
        yield { crud: [entry(n)], complete: async () => (self.queue = self.queue.filter((other) => other > n)) };
      }
    },
    getClientId: async () => 'device',
    getAll: async () => [],
    get: async () => ({ n: self.queue.length }),
    getOptional: async (_, [name]) => (self.notes.has(name) ? { value: self.notes.get(name) } : null),
    execute: async (sql, [name, value] = []) => {
      if (sql.includes("'lineage'")) self.notes.set('lineage', 'new');
      else if (sql.startsWith('INSERT')) self.notes.set(name, value);
    },
    registerListener: ({ statusChanged }) => ((self.status = statusChanged), () => {})
  };
  self.tokens = 0;
  self.connector = new LowtideConnector({
    endpoint: 'http://x',
    tokens: async () => `token ${++self.tokens}`,
    onUpload: ({ status, code }) => self.heard.push([status, code]),
    onRefused: (refusals) => self.heard.push(...refusals),
    fetch: async (_, { body, headers }) => {
      const sent = JSON.parse(typeof body === 'string' ? body : gunzipSync(Buffer.from(body)));
      self.sent.push({ ...sent, token: headers.authorization });
      const answer = answers.shift() ?? 'ok';
      if (answer instanceof Response) return answer;
      if (answer !== 'ok') throw new TypeError('fetch failed');
      const numbers = sent.transactions.flatMap(({ mutations, oversized }) => oversized?.n ?? mutations.map(({ n }) => n));
      return Response.json({ last: numbers.at(-1), results: numbers.map((n) => ({ n, status: 'applied' })) });
    },
    ...more
  });
  self.upload = () => self.connector.uploadData(self.db).then(() => 'ok', ({ code }) => code);
  self.sizes = () => self.sent.map(({ transactions }) => transactions.length);
  return self;
}
const problem = (status, code, more = {}) => Response.json({ code, ...more }, { status });
const html = (status) => new Response('<html>', { status });

test('a token that is refused is renewed, once', async () => {
  const phone = device(1, [problem(401, 'token_expired')]);
  assert.equal(await phone.upload(), 'ok');
  assert.deepEqual(phone.sent.map(({ token }) => token), ['Bearer token 1', 'Bearer token 2']);
  assert.deepEqual(phone.queue, []);
  const never = device(1, [problem(401, 'unauthorized'), problem(401, 'unauthorized')]);
  assert.equal(await never.upload(), 'unauthorized');
  assert.deepEqual(never.queue, [1]);
});

test('a gap is confirmed, a copied database begins a lineage and drops what the other copy sent', async () => {
  const gap = device(2, [problem(409, 'batch_gap', { expected: 1 })]);
  assert.equal(await gap.upload(), 'ok');
  assert.deepEqual(gap.sent.map((batch) => batch.gap), [undefined, true]);
  const copied = device(3, [problem(409, 'batch_repeated', { known: 2 })]);
  assert.equal(await copied.upload(), 'ok');
  assert.deepEqual(copied.sent.map(({ lineage }) => lineage), [undefined, 'new']);
  assert.deepEqual(copied.sizes(), [3, 1]);
  assert.deepEqual(copied.queue, []);
});

test('what the server cannot read is halved, spelt out as text, and at last only named', async () => {
  const bad = () => problem(400, 'malformed');
  const phone = device(8, [bad(), bad(), bad(), bad(), bad()]);
  assert.equal(await phone.upload(), 'ok');
  assert.deepEqual(phone.sizes(), [8, 4, 2, 1, 1, 1]);
  assert.equal(typeof phone.sent[4].transactions[0].mutations[0].data, 'string');
  assert.deepEqual(phone.sent[5].transactions[0].oversized.n, 1);
  while (phone.queue.length > 0) assert.equal(await phone.upload(), 'ok');
  assert.deepEqual(phone.sizes().slice(6), [2, 4, 1]);
  // A proxy's bound is one, too; its other pages are none.
  const proxy = device(4, [html(413), html(413)], { title: 'T'.repeat(40_000) });
  assert.equal(await proxy.upload(), 'ok');
  assert.deepEqual(proxy.sizes(), [4, 2, 1]);
  // Where hardly anything was sent, it is a page like any other: no change is given up for it.
  const small = device(2, Array.from({ length: 9 }, () => html(413)));
  for (let time = 0; time < 9; time++, small.connector.hurry()) assert.equal(await small.upload(), 'not_lowtide');
  assert.equal(await small.upload(), 'ok');
  assert.deepEqual([small.sizes(), small.sent.at(-1).transactions[0].mutations[0].data], [Array(10).fill(2), { title: 'T1' }]);
  const portal = device(4, [html(400)]);
  assert.equal(await portal.upload(), 'not_lowtide');
  assert.deepEqual(portal.sizes(), [4]);
});

test('a success that says nothing of what was sent takes nothing out of the queue', async () => {
  for (const answer of [{}, [], { last: 9 }, { last: 9, results: null }, { results: [] }, { last: 'x', results: [] }]) {
    const phone = device(2, [Response.json(answer)]);
    assert.equal(await phone.upload(), 'not_lowtide', JSON.stringify(answer));
    assert.deepEqual([phone.queue, phone.heard], [[1, 2], [[200, 'not_lowtide']]]);
  }
  for (const text of ['', 'null', '7', '"x"', 'true']) {
    const phone = device(2, [new Response(text)]);
    assert.equal(await phone.upload(), 'not_lowtide', text);
    assert.deepEqual(phone.queue, [1, 2]);
  }
});

test('a clock that was years ahead when it was looked last does not end the audits', async (t) => {
  const audits = async (then) => {
    const asked = [];
    const phone = device(0, [], { fetch: async (address) => (asked.push(address), Response.json({ diverged: [] })) });
    phone.notes.set('audited', String(Date.now() + then));
    await phone.connector.prepare(phone.db);
    phone.status({ connected: true, downloading: false });
    for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
    return asked.length;
  };
  const day = 24 * 3600 * 1000;
  assert.deepEqual([await audits(-day / 2), await audits(-2 * day), await audits(3650 * day)], [0, 1, 1]);
});

test('a change that is written while a batch is made is the same change when the batch is sent again', async () => {
  const phone = device(1, ['lost']);
  const stamps = new Map([[1, 100]]);
  const { getCrudTransactions, getAll } = phone.db;
  Object.assign(phone.db, {
    getAll: async (sql, values) =>
      sql.includes('lowtide_stamp') ? [...stamps].map(([crud_id, at]) => ({ crud_id, at })) : getAll(sql, values),
    async *getCrudTransactions() {
      if (!stamps.has(2)) {
        phone.queue.push(2);
        stamps.set(2, 200);
      }
      yield* getCrudTransactions();
    }
  });
  assert.equal(await phone.upload(), 'network');
  phone.connector.hurry();
  assert.equal(await phone.upload(), 'ok');
  const [first, again] = phone.sent.map(({ transactions }) => transactions);
  assert.deepEqual(first, again);
  assert.deepEqual(first.map(({ mutations }) => mutations[0].at), [100, 200]);
});

test('an answer that is short of what was sent completes nothing', async () => {
  const phone = device(2, [Response.json({ last: 1, results: [] }), Response.json({})]);
  assert.equal(await phone.upload(), 'not_lowtide');
  phone.connector.hurry();
  assert.equal(await phone.upload(), 'not_lowtide');
  assert.deepEqual(phone.queue, [1, 2]);
});

test('after failures it waits longer each time, no two devices alike, and goes on when the network is back', async () => {
  const { now } = Date;
  const firsts = new Set();
  try {
    for (let i = 0; i < 20; i++) {
      const phone = device(1, Array(30).fill('lost'));
      await phone.connector.prepare(phone.db);
      const waits = [];
      let clock = now();
      Date.now = () => clock;
      for (let tries = 0; tries < 10; tries++) {
        assert.equal(await phone.upload(), 'network');
        const from = clock;
        while ((await phone.upload()) === 'waiting') clock += 250;
        waits.push(clock - from);
        // The try that ended the wait failed, too, and began the next.
        clock += 150_000;
      }
      assert.ok(waits[0] >= 1_000 && waits[0] <= 2_250, String(waits));
      assert.ok(Math.max(...waits) > 60_000 && Math.max(...waits) <= 120_250, String(waits));
      firsts.add(waits[0]);
      // The clock was put back by a year: nobody waits for that.
      clock -= 365 * 86_400_000;
      assert.equal(await phone.upload(), 'network');
      assert.equal(await phone.upload(), 'waiting');
      phone.status({ connected: true, downloading: true });
      assert.equal(await phone.upload(), 'network');
    }
  } finally {
    Date.now = now;
  }
  assert.ok(firsts.size > 2);
});

test('Retry-After is heeded, up to a bound', async () => {
  const { now } = Date;
  let clock = now();
  Date.now = () => clock;
  try {
    const phone = device(1, [problem(503, 'unavailable', { retry_after: 60 })]);
    assert.equal(await phone.upload(), 'unavailable');
    clock += 60_000;
    assert.equal(await phone.upload(), 'waiting');
    clock += 2_500;
    assert.equal(await phone.upload(), 'ok');
    const long = device(1, [problem(503, 'unavailable', { retry_after: 10 ** 9 })]);
    await long.upload();
    clock += 130_000;
    assert.equal(await long.upload(), 'ok');
  } finally {
    Date.now = now;
  }
});

test('who is not signed in asks nobody, and waits for nothing once they are', async () => {
  let signedIn = false;
  const phone = device(1, [], { tokens: async () => (signedIn ? 'token' : null) });
  for (let i = 0; i < 5; i++) assert.equal(await phone.upload(), 'not_signed_in');
  assert.equal(phone.sent.length, 0);
  signedIn = true;
  assert.equal(await phone.upload(), 'ok');
});

test("one user's changes are never sent with another's token, unless the accounts were merged", async () => {
  const identity = { user: 'anna', former: [] };
  const tokens = { token: async () => `of ${identity.user}`, identity };
  const phone = device(2, [], { tokens });
  await phone.connector.prepare(phone.db);
  assert.equal(await phone.connector.claim(phone.db), true);
  identity.user = 'ben';
  assert.equal(await phone.upload(), 'other_user');
  await assert.rejects(phone.connector.fetchCredentials(), { code: 'other_user' });
  assert.equal(await phone.connector.claim(phone.db), false);
  assert.equal(phone.sent.length, 0);
  identity.former = ['anna'];
  assert.equal(await phone.connector.claim(phone.db), true);
  assert.equal(await phone.upload(), 'ok');
  assert.equal(phone.notes.get('owner'), 'ben');
  // And over a start: whose the database is lies in it.
  const again = device(1, [], { tokens: { token: async () => 't', identity: { user: 'zoe', former: [] } } });
  again.notes = phone.notes;
  await again.connector.prepare(again.db);
  assert.equal(await again.connector.claim(again.db), false);
});

test('a batch that was read for one user is not sent again as the next one, also when the database is theirs by then', async () => {
  // While something is awaited, another tab signs anna out, empties the database, and ben is in; or it was a merge.
  const during = async (moment, former = []) => {
    const identity = { user: 'anna', former: [] };
    let turns = true;
    const turn = (now) => {
      if (now !== moment || !turns) return;
      turns = false;
      Object.assign(identity, { user: 'ben', former });
      phone.notes.set('owner', 'ben');
    };
    const token = async (refused) => {
      if (!refused) turn('the token');
      return `of ${identity.user}`;
    };
    const fetch = async (_, { body, headers }) => {
      phone.sent.push(headers.authorization);
      turn('the request');
      if (headers.authorization === 'Bearer of anna' && identity.user === 'ben') return problem(401, 'session_revoked');
      return Response.json({ last: JSON.parse(body).transactions?.length ?? 0, results: [], diverged: [] });
    };
    const phone = device(2, [], { tokens: { token, identity }, fetch });
    await phone.connector.prepare(phone.db);
    await phone.connector.claim(phone.db);
    const { getClientId } = phone.db;
    phone.db.getClientId = async () => (turn('the batch'), getClientId());
    return [await phone.upload(), phone.sent, phone.queue.length];
  };
  assert.deepEqual(await during('the batch'), ['other_user', [], 2]);
  assert.deepEqual(await during('the token'), ['other_user', [], 2]);
  assert.deepEqual(await during('the request'), ['other_user', ['Bearer of anna'], 2]);
  assert.deepEqual(await during('the request', ['anna']), ['ok', ['Bearer of anna', 'Bearer of ben'], 0]);
});

test("the app's own token is asked for anew by a new connection, and by another user", async () => {
  let [user, asked, answers] = ['anna', 0, null];
  const tokens = async () => {
    asked++;
    const mine = `of ${user}`;
    await answers;
    return mine;
  };
  const phone = device(1, [], { tokens });
  const again = async () => {
    phone.queue = [1];
    assert.equal(await phone.upload(), 'ok');
    return phone.sent.at(-1).token;
  };
  await phone.connector.prepare(phone.db);
  assert.equal(await again(), 'Bearer of anna');
  assert.equal(await again(), 'Bearer of anna');
  assert.equal(asked, 1, 'a token that is good is used again');
  user = 'ben';
  await phone.connector.disown(phone.db, ''); // signed out
  assert.equal(await again(), 'Bearer of ben');
  user = 'zoe';
  phone.connector.begin();
  assert.equal(await again(), 'Bearer of zoe');
  // An answer that was asked for before is nobody's after.
  let give;
  answers = new Promise((resolve) => (give = resolve));
  phone.connector.begin();
  const late = phone.connector.fetchCredentials();
  user = 'anna';
  phone.connector.begin();
  give();
  assert.equal((await late).token, 'of zoe');
  assert.equal(await again(), 'Bearer of anna');
});

test('a call whose answer is lost, and whose repeat meets an expired token, is one call to the server', async () => {
  const keys = [];
  const faults = [() => Promise.reject(new TypeError('fetch failed')), () => problem(401, 'token_expired')];
  const fetch = async (_, { headers }) => {
    keys.push([headers.authorization, headers['idempotency-key']]);
    return faults.shift()?.() ?? Response.json({ result: 1 });
  };
  const phone = device(1, [], { fetch });
  await phone.connector.request('POST', '/v1/functions/pay', { body: {}, attempts: 3 });
  assert.deepEqual(keys.map(([token]) => token), ['Bearer token 1', 'Bearer token 1', 'Bearer token 2']);
  assert.ok(keys[0][1].length >= 16);
  assert.equal(new Set(keys.map(([, key]) => key)).size, 1);
  // Another call is another one.
  await phone.connector.request('POST', '/v1/functions/pay', { body: {}, attempts: 3 });
  assert.notEqual(keys[3][1], keys[0][1]);
});

test('a listener that throws keeps no change in the queue, and is reported', async (t) => {
  const { setTimeout } = globalThis;
  const reported = [];
  // What a listener throws is thrown again by itself: here it is caught on its way.
  t.after(() => (globalThis.setTimeout = setTimeout));
  globalThis.setTimeout = (run, wait, ...more) => (wait === undefined ? reported.push(run) : setTimeout(run, wait, ...more));
  const broken = (name) => () => {
    throw new Error(name);
  };
  const results = [
    { n: 1, status: 'refused', code: 'forbidden' },
    { n: 2, status: 'merged', conflicts: ['title'] }
  ];
  const phone = device(2, [problem(503, 'unavailable'), Response.json({ last: 2, results })], {
    onUpload: broken('upload'),
    onRefused: broken('refused'),
    onMerged: broken('merged')
  });
  assert.equal(await phone.upload(), 'unavailable');
  phone.connector.hurry();
  assert.equal(await phone.upload(), 'ok');
  assert.deepEqual(phone.queue, []);
  assert.equal(reported.length, 4);
  for (const [i, name] of ['upload', 'upload', 'refused', 'merged'].entries()) assert.throws(reported[i], { message: name });
});

test('who gives an upload up holds up nobody: not with its turn, not with a token that never comes', async () => {
  let hangs = true;
  const phone = device(1, [], { tokens: () => (hangs ? new Promise(() => {}) : Promise.resolve('token')) });
  const [first, second] = [new AbortController(), new AbortController()];
  const given = [first, second].map(({ signal }) => phone.connector.upload(phone.db, signal).catch(({ code }) => code));
  const last = phone.upload();
  await new Promise((resolve) => setTimeout(resolve, 20));
  hangs = false;
  second.abort(); // before its turn
  first.abort();
  assert.deepEqual([...(await Promise.all(given)), await last], ['aborted', 'aborted', 'ok']);
  assert.equal(phone.sent.length, 1);
});
