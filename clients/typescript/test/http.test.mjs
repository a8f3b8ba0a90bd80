// One request over a real socket to a server that has every bad day.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { isError, LowtideError } from '../dist/errors.js';
import { Http } from '../dist/http.js';

let server;
let http;
let seen = [];
let answer; // what the server does with a request

before(async () => {
  server = createServer((request, response) => {
    const parts = [];
    request.on('data', (chunk) => parts.push(chunk));
    request.on('end', () => {
      const sent = Buffer.concat(parts);
      const packed = request.headers['content-encoding'] === 'gzip';
      const body = String(packed ? gunzipSync(sent) : sent);
      seen.push({ bytes: sent.length, method: request.method, url: request.url, headers: request.headers, body });
      answer(request, response, seen.length);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  http = new Http({ endpoint: `http://127.0.0.1:${server.address().port}//`, appVersion: 'ios/1.2' });
});
after(() => {
  server.closeAllConnections();
  server.close();
});

/** What a request comes to: its value, or its error. */
async function send(does, sending = {}, method = 'POST') {
  seen = [];
  answer = does;
  return http.send(method, '/v1/x', sending).catch((error) => error);
}
const json = (status, body, headers = {}) => (_, response) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};
const html = (status) => (_, response) => {
  response.writeHead(status, { 'content-type': 'text/html' });
  response.end('<html>Welcome to the hotel');
};

test('an answer is its JSON, and an empty one nothing', async () => {
  assert.deepEqual(await send(json(200, { a: 1 }), { body: { b: 2 }, token: 'T' }), { a: 1 });
  const [{ headers, body, url }] = seen;
  assert.deepEqual([url, body, headers.authorization, headers['x-app-version']], ['/v1/x', '{"b":2}', 'Bearer T', 'ios/1.2']);
  assert.equal(headers['idempotency-key'], undefined);
  assert.equal(await send((_, response) => response.writeHead(204).end(), {}, 'DELETE'), undefined);
});

test('a fetch that heeds no signal is given up all the same', async () => {
  const deaf = new Http({ endpoint: 'http://x', fetch: () => new Promise(() => {}) });
  await assert.rejects(deaf.send('GET', '/v1/x', { deadline: 20 }), { code: 'timeout', retryable: true });
  await assert.rejects(deaf.send('GET', '/v1/x', { signal: AbortSignal.timeout(20) }), { code: 'aborted', retryable: false });
});

test('what is long goes compressed, and as it is where something on the way cannot read it', async () => {
  const body = { text: 'To be sent. '.repeat(200) };
  const short = { body: { text: 'Short.' } };
  const codings = () => seen.map(({ headers }) => headers['content-encoding']);
  await send(json(200, {}), short);
  assert.deepEqual(codings(), [undefined]);
  await send(json(200, {}), { body });
  assert.deepEqual([codings(), JSON.parse(seen[0].body)], [['gzip'], body]);
  assert.ok(seen[0].bytes < 200);
  assert.equal((await send(json(503, { code: 'busy' }), { body })).code, 'busy');
  assert.deepEqual(codings(), ['gzip'], 'what is not about the body is not sent twice');
  // The server's own no stays a no, and says nothing about the next request.
  assert.equal((await send(json(400, { code: 'malformed' }), { body })).code, 'malformed');
  assert.deepEqual(codings(), ['gzip', undefined]);
  const old = ({ headers }, response) => json(headers['content-encoding'] ? 415 : 200, { code: 'unsupported_media' })(null, response);
  const mine = new Http({ endpoint: http.endpoint });
  for (const expected of [['gzip', undefined], [undefined]]) {
    seen = [];
    answer = old;
    await mine.send('POST', '/v1/x', { body });
    assert.deepEqual(codings(), expected);
    assert.deepEqual(JSON.parse(seen.at(-1).body), body);
  }
  // A page's request that is held back for its header has no answer: the next one has no such header.
  const held = ({ headers }, response) => (headers['content-encoding'] ? response.destroy() : json(200, {})(null, response));
  assert.equal((await send(held, { body })).code, 'network');
  assert.deepEqual([await send(held, { body }), codings()], [{}, [undefined]]);
  assert.equal((await send(held, { body })).code, 'network');
});

test('where compressed bodies are lost on the way, whatever comes in place of an answer, the client learns to go without', async () => {
  const sending = { body: { text: 'To be sent. '.repeat(200) }, deadline: 200 };
  const times = async (count, ...answers) => {
    const mine = new Http({ endpoint: http.endpoint });
    seen = [];
    const codes = [];
    for (let i = 0; i < count; i++) {
      answer = ({ headers }, response) => (headers['content-encoding'] ? (answers[i] ?? answers[0]) : json(200, {}))(null, response);
      codes.push(await mine.send('POST', '/v1/x', sending).then(() => 'ok', ({ code }) => code));
    }
    return [codes, seen.map(({ headers }) => (headers['content-encoding'] ? 'packed' : 'plain'))];
  };
  const learnt = ['packed', 'plain', 'packed', 'plain', 'plain', 'plain'];
  for (const [code, does] of [
    ['network', (_, response) => response.destroy()],
    ['timeout', () => {}],
    ['not_lowtide', html(403)],
    ['not_lowtide', html(501)],
    ['not_lowtide', html(502)]
  ]) {
    assert.deepEqual(await times(6, does), [[code, 'ok', code, 'ok', 'ok', 'ok'], learnt]);
  }
  // A network that fails now and then is no reason: each answer to a compressed one says so.
  const [lost, fine] = [html(502), json(200, {})];
  const [, flaky] = await times(7, lost, null, fine, lost, null, fine, fine);
  assert.deepEqual(flaky, ['packed', 'plain', 'packed', 'packed', 'plain', 'packed', 'packed']);
  // Nor is a no of Lowtide's, or a bound of a proxy's.
  for (const does of [json(403, { code: 'forbidden' }), json(503, { code: 'unavailable' }), html(413)]) {
    assert.deepEqual((await times(3, does))[1], ['packed', 'packed', 'packed']);
  }
});

test('a problem is an error with its code, status, hint and wait', async () => {
  const error = await send(json(429, { code: 'too_many_requests', detail: 'Slowly.', hint: 'Wait.' }, { 'retry-after': '7' }));
  assert.ok(error instanceof LowtideError && error instanceof Error);
  const { code, status, hint, message, retryable, retryAfter } = error;
  assert.deepEqual([code, status, hint, message, retryable, retryAfter], ['too_many_requests', 429, 'Wait.', 'Slowly.', true, 7000]);
  assert.equal((await send(json(403, { code: 'forbidden' }))).retryable, false);
  assert.equal((await send(json(501, { code: 'not_set_up' }))).retryable, false);
  assert.equal((await send(json(503, { code: 'busy' }))).retryable, true);
  assert.equal(isError(error, 'busy'), false);
  assert.equal(isError(error, 'busy', 'too_many_requests'), true);
});

test('what stands in between decides nothing', async () => {
  for (const does of [html(200), html(401), html(403), html(502), json(401, { error: 'invalid_grant' }), json(401, null)]) {
    const error = await send(does);
    assert.deepEqual([error.code, error.retryable], ['not_lowtide', true]);
  }
});

test('a redirect is not followed: what is sent stays here', async () => {
  const error = await send((_, response) => response.writeHead(307, { location: '/elsewhere' }).end());
  assert.equal(error.code, 'network');
  assert.deepEqual(seen.map(({ url }) => url), ['/v1/x']);
});

test('no answer, and half of one, are the network', async () => {
  assert.equal((await send((request) => request.socket.destroy())).code, 'network');
  const half = (_, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('{"a": ');
    setTimeout(() => response.destroy(), 20);
  };
  assert.equal((await send(half)).code, 'network');
  const gone = new Http({ endpoint: 'http://127.0.0.1:1' });
  assert.equal((await gone.send('GET', '/').catch((error) => error)).code, 'network');
});

test('an answer that takes too long is given up, and so is one that nobody wants any more', async () => {
  const began = Date.now();
  assert.equal((await send(() => {}, { deadline: 50 })).code, 'timeout');
  // A body that drips counts, too.
  const drips = (_, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write(' '), 5);
    response.on('close', () => clearInterval(timer));
  };
  assert.equal((await send(drips, { deadline: 80 })).code, 'timeout');
  assert.ok(Date.now() - began < 2_000);
  const controller = new AbortController();
  const waiting = send(() => controller.abort(), { signal: controller.signal });
  assert.deepEqual([(await waiting).code, (await waiting).retryable], ['aborted', false]);
  assert.equal((await send(json(200, 1), { signal: AbortSignal.abort() })).code, 'aborted');
  assert.equal(seen.length, 0);
});

test('a lost answer is asked for again with the same key and the same words, and no more often than said', async () => {
  const third = (request, response, n) => (n < 3 ? request.socket.destroy() : json(200, { n })(request, response));
  assert.deepEqual(await send(third, { body: { b: 2 }, attempts: 3 }), { n: 3 });
  assert.equal(new Set(seen.map(({ headers, body }) => `${headers['idempotency-key']} ${body}`)).size, 1);
  const key = seen[0].headers['idempotency-key'];
  assert.ok(key.length >= 20);
  assert.equal((await send((request) => request.socket.destroy(), { attempts: 2 })).code, 'network');
  assert.equal(seen.length, 2);
  assert.notEqual(seen[0].headers['idempotency-key'], key);
  // What was answered is answered.
  await send(json(401, { code: 'invalid_grant' }), { attempts: 3 });
  assert.equal(seen.length, 1);
});
