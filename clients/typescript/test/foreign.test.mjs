// What something in between answers in Lowtide's place, to everything that can be asked.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OwnAccount } from '../dist/account.js';
import { LowtideConnector } from '../dist/connector.js';
import { Conflicts } from '../dist/feeds.js';
import { ServerFunctions } from '../dist/functions.js';
import { Session } from '../dist/session.js';
import { SignIn } from '../dist/sign-in.js';
import { memoryStore } from '../dist/storage.js';
import { fetching, Server } from './server.mjs';

const answer = (status, text, headers) => async () => new Response(text, { status, headers });
const json = (value) => answer(200, JSON.stringify(value), { 'content-type': 'application/json' });
const FOREIGN = {
  'an empty object': json({}),
  'an empty list': json([]),
  'another object': json({ status: 'ok', code: 'ok', id: 1 }),
  null: json(null),
  'a number': json(7),
  'a text': json('ok'),
  nothing: answer(200, ''),
  'a page': answer(200, '<html>Sign in to this network'),
  'a page that was redirected to': async () => Object.defineProperty(new Response('<html>'), 'redirected', { value: true }),
  'a redirect that is not followed': async () => assert.fail(new TypeError('unexpected redirect')),
  'no content': answer(204, null)
};

/** Everything that asks the server, by the class that it is a method of; `void`: its answer is empty. */
const ASKS = {
  signIn: {
    anonymous: { ask: ({ signIn }) => signIn.anonymous(), nobody: true },
    startEmail: { ask: ({ signIn }) => signIn.startEmail('a@b.example') },
    finishEmail: { ask: ({ signIn }) => signIn.finishEmail({ flow_id: 'f' }, '1') },
    password: { ask: ({ signIn }) => signIn.password('a@b.example', 'p') },
    setPassword: { ask: ({ signIn }) => signIn.setPassword({ flow_id: 'f' }, '1', 'p') },
    startSms: { ask: ({ signIn }) => signIn.startSms('+41') },
    finishSms: { ask: ({ signIn }) => signIn.finishSms({ flow_id: 'f' }, '1') },
    secondFactor: { ask: ({ signIn }) => signIn.secondFactor({ ticket: 't' }, '1') },
    passkey: { ask: ({ signIn }) => signIn.passkey() },
    idToken: { ask: ({ signIn }) => signIn.idToken({ provider: 'apple', id_token: 'i', nonce: 'n' }) },
    finishUpstream: {
      async ask({ signIn }) {
        const { url } = await signIn.startUpstream('okta', 'app:/in');
        return signIn.finishUpstream(`app:/in?code=1&state=${new URL(url).searchParams.get('state')}`);
      }
    },
    merge: { ask: ({ signIn }) => signIn.merge() }
  },
  account: {
    read: { ask: ({ account }) => account.read() },
    rename: { ask: ({ account }) => account.rename('Ann') },
    devices: { ask: ({ account }) => account.devices() },
    signOutDevice: { ask: ({ account }) => account.signOutDevice('s'), void: true },
    signOutOthers: { ask: ({ account }) => account.signOutOthers(), void: true },
    identities: { ask: ({ account }) => account.identities() },
    unlink: { ask: ({ account }) => account.unlink({ provider: 'apple', subject: 's' }), void: true },
    changePassword: { ask: ({ account }) => account.changePassword('p'), void: true },
    enrolSecondFactor: { ask: ({ account }) => account.enrolSecondFactor() },
    confirmSecondFactor: { ask: ({ account }) => account.confirmSecondFactor('1') },
    renewRecoveryCodes: { ask: ({ account }) => account.renewRecoveryCodes() },
    removeSecondFactor: { ask: ({ account }) => account.removeSecondFactor(), void: true },
    addPasskey: { ask: ({ account }) => account.addPasskey('Phone') },
    passkeys: { ask: ({ account }) => account.passkeys() },
    renamePasskey: { ask: ({ account }) => account.renamePasskey('p', 'Phone'), void: true },
    deletePasskey: { ask: ({ account }) => account.deletePasskey('p'), void: true },
    delete: { ask: ({ account }) => account.delete(), void: true }
  },
  session: { refresh: { ask: ({ session }) => session.refresh() } },
  conflicts: {
    of: { ask: ({ conflicts }) => conflicts.of('note', 'n').next() },
    restore: { ask: ({ conflicts }) => conflicts.restore('c') }
  },
  functions: { call: { ask: ({ functions }) => functions.call('f', {}) } },
  connector: { audit: { ask: ({ connector, db }) => connector.audit(db) } }
};
const ELSEWHERE = ['waitForLink', 'startUpstream', 'nonce', 'forgetGuest', 'command', 'find']; // ask nobody, or have a test

/** Somebody who is signed in over a good network, beside a guest that was left behind; then comes another one. */
async function phone(foreign, nobody) {
  const server = new Server();
  let fetch = fetching(server);
  const kept = memoryStore();
  const writes = [];
  const store = { ...kept, set: (name, value) => (writes.push(name), kept.set(name, value)) };
  const passkeys = { create: async () => ({}), get: async () => ({}) };
  const session = new Session({ endpoint: 'http://x', store, fetch: (...sent) => fetch(...sent), passkeys });
  if (!nobody) {
    await session.signIn.anonymous();
    const [, signed] = server.answer('/v1/auth/anonymous', {});
    await session.take({ ...signed, user: { ...server.user, id: 'ben', anonymous: false } });
    assert.equal(session.guest.user, 'anna');
  } else {
    await session.facts();
  }
  const db = { getClientId: async () => 'd', getAll: async () => [], execute: () => assert.fail('something was noted') };
  const connector = new LowtideConnector({ endpoint: 'http://x', tokens: session, fetch: (...sent) => fetch(...sent) });
  const { signIn, account } = session;
  const conflicts = new Conflicts(connector);
  const functions = new ServerFunctions(db, connector);
  fetch = foreign;
  writes.length = 0;
  return { session, signIn, account, conflicts, functions, connector, db, kept, writes };
}

test('everything that asks the server is in the table of this test', () => {
  for (const [name, { prototype }] of Object.entries({ signIn: SignIn, account: OwnAccount, conflicts: Conflicts, functions: ServerFunctions })) {
    const methods = Object.getOwnPropertyNames(prototype).filter((one) => one !== 'constructor' && !ELSEWHERE.includes(one));
    assert.deepEqual(methods.sort(), Object.keys(ASKS[name]).sort());
  }
});

for (const [what, foreign] of Object.entries(FOREIGN)) {
  test(`in place of an answer ${what} is the network, keeps nothing and signs nobody out`, async () => {
    const asks = Object.values(ASKS).flatMap((methods) => Object.entries(methods));
    await Promise.all(
      asks.map(async ([name, { ask, nobody = false, void: empty = false }]) => {
        if (empty && what === 'no content') return; // which is what Lowtide answers
        const one = await phone(foreign, nobody);
        const before = await one.kept.get('lowtide.session');
        const error = await ask(one).then(
          (value) => assert.fail(`${name} gave ${JSON.stringify(value)}`),
          (reason) => reason
        );
        const expected = what.startsWith('a redirect') ? 'network' : 'not_lowtide';
        assert.deepEqual([error.name, error.code, error.retryable], ['LowtideError', expected, true], `${name}: ${error.stack}`);
        assert.deepEqual(one.writes.filter((at) => at !== 'lowtide.session.upstream'), [], name);
        assert.equal(await one.kept.get('lowtide.session'), before, name);
        if (!nobody) {
          const { user, guest } = one.session.state;
          assert.deepEqual([user.id, guest], ['ben', 'anna'], name);
        }
        one.session.close();
      })
    );
  });
}

test('who waits for a link waits through a bad network, and is signed in once, also when the first answer is not heard', async () => {
  const keys = [];
  let asked = 0;
  const server = new Server();
  const [, signed] = server.answer('/v1/auth/anonymous', {});
  const answers = [
    Response.json({ code: 'sign_in_pending', retry_after: 0.001 }, { status: 409 }),
    new Response('<html>'),
    Response.json({}),
    Response.json({ code: 'unavailable' }, { status: 503 }),
    Response.json({ code: 'key_in_flight' }, { status: 409 }),
    Response.json(signed)
  ];
  const fetch = async (_, { headers }) => {
    keys.push(headers['idempotency-key']);
    if (asked++ === 1) throw new TypeError('fetch failed'); // the server has signed in, and nobody heard
    return answers.shift();
  };
  let full = true;
  const kept = memoryStore();
  const set = async (name, value) => {
    if (full && name === 'lowtide.session') throw new Error('the key store is locked');
    await kept.set(name, value);
  };
  const { setTimeout: real } = globalThis;
  globalThis.setTimeout = (work, wait, ...more) => real(work, wait > 10_000 ? wait : wait / 1000, ...more);
  try {
    const session = new Session({ endpoint: 'http://x', store: { ...kept, set }, fetch });
    await assert.rejects(session.signIn.waitForLink({ flow_id: 'flow' }), { code: 'storage' });
    assert.equal(session.user, null);
    full = false;
    answers.push(Response.json(signed));
    assert.equal((await session.signIn.waitForLink({ flow_id: 'flow' })).user.id, 'anna');
    assert.deepEqual([asked, new Set(keys).size, keys[0].length >= 20], [8, 1, true]);
    // What is no matter of the network ends the wait.
    answers.push(Response.json({ code: 'invalid_grant' }, { status: 401 }));
    await assert.rejects(session.signIn.waitForLink({ flow_id: 'other' }), { code: 'invalid_grant' });
    assert.equal(new Set(keys).size, 2);
    assert.equal(session.user.id, 'anna');
    session.close();
  } finally {
    globalThis.setTimeout = real;
  }
});

test('who tries once more with the same code, later, has the answer that nobody heard; with a password it is another sign-in', async () => {
  const asks = {
    finishEmail: (signIn, code) => signIn.finishEmail({ flow_id: 'f' }, code),
    finishSms: (signIn, code) => signIn.finishSms({ flow_id: 'f' }, code),
    setPassword: (signIn, code) => signIn.setPassword({ flow_id: 'f' }, code, 'p'),
    secondFactor: (signIn, code) => signIn.secondFactor({ ticket: 't' }, code),
    idToken: (signIn, code) => signIn.idToken({ provider: 'apple', id_token: code, nonce: 'n' }),
    password: (signIn, code) => signIn.password('a@b.example', code)
  };
  for (const [name, ask] of Object.entries(asks)) {
    const keys = [];
    const fetch = async (_, { headers }) => (keys.push(headers['idempotency-key']), Response.json({ code: 'unavailable' }, { status: 503 }));
    const store = memoryStore();
    for (const code of ['1', '1', '2']) {
      const session = new Session({ endpoint: 'http://x', store, fetch }); // the app was closed in between
      await assert.rejects(ask(session.signIn, code), { code: 'unavailable' });
      session.close();
    }
    const [first, again, other] = keys;
    assert.deepEqual([first === again, first === other], [name !== 'password', false], name);
  }
});
