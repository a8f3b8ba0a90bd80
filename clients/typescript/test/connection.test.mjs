// When a device is connected: networks that cost, apps in the background, and what is left running.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Connection } from '../dist/connection.js';
import { LowtideError } from '../dist/errors.js';
import { nativeSurroundings } from '../dist/surroundings.js';

/** A database that only counts, a connector that takes `upload` to send one change, and a world to turn. */
function device({ waiting = 0, upload = async () => {}, appVersion } = {}) {
  const self = { calls: [], waiting, hurried: 0, options: null, told: [], fails: null };
  const db = {
    connected: false,
    async connect(_, options) {
      self.calls.push(['connect', options.params]);
      if (self.fails) throw self.fails;
      self.options = options;
      db.connected = true;
    },
    async disconnect() {
      self.calls.push('disconnect');
      db.connected = false;
    },
    get: async () => ({ n: self.waiting })
  };
  const connector = {
    appVersion,
    hurry: () => self.hurried++,
    begin: () => {},
    async upload(_, signal) {
      await upload(signal, self);
      self.waiting--;
    }
  };
  let state = { online: true, metered: false, visible: true };
  let listener = null;
  const watch = {
    background: 'pause',
    now: () => state,
    subscribe: (given) => {
      listener = given;
      return () => (listener = null);
    }
  };
  self.db = db;
  self.turn = async (change, wait = 20) => {
    state = { ...state, ...change };
    listener?.();
    await new Promise((resolve) => setTimeout(resolve, wait));
  };
  self.heard = () => listener !== null;
  self.connection = new Connection(db, connector, watch, (error) => self.told.push(error));
  return self;
}
const ONLINE = ['connect', { metered: false }];

test('a metered network is told to the server, or paused, or ignored, as the app says', async () => {
  const defer = device();
  await defer.connection.connect();
  await defer.turn({ metered: true });
  await defer.turn({ metered: true });
  await defer.turn({ metered: false });
  assert.deepEqual(defer.calls, [ONLINE, ['connect', { metered: true }], ONLINE]);
  await defer.connection.disconnect();

  const pause = device();
  await pause.connection.connect({ metered: 'pause', sync: { params: { a: 1 } } });
  await pause.turn({ metered: true });
  assert.equal(pause.connection.active, false);
  await pause.turn({ metered: false });
  assert.deepEqual(pause.calls, [['connect', { a: 1 }], 'disconnect', ['connect', { a: 1 }]]);
  await pause.connection.disconnect();

  const ignore = device();
  await ignore.connection.connect({ metered: 'ignore' });
  await ignore.turn({ metered: true });
  assert.deepEqual(ignore.calls, [['connect', {}]]);
  await ignore.connection.disconnect();
});

test('the version of the app is said to what the SDK downloads from, beside what the app says itself', async () => {
  const phone = device({ appVersion: 'ios/2.0.3' });
  await phone.connection.connect({ sync: { appMetadata: { build: '7' } } });
  assert.deepEqual(phone.options.appMetadata, { app_version: 'ios/2.0.3', build: '7' });
  const silent = device();
  await silent.connection.connect();
  assert.deepEqual(silent.options.appMetadata, {});
});

test('in the background what waits is sent, then the connection ends; in front it is back', async () => {
  const phone = device({ waiting: 3 });
  await phone.connection.connect();
  await phone.turn({ visible: false });
  assert.deepEqual(phone.calls, [ONLINE, 'disconnect']);
  assert.equal(phone.waiting, 0);
  await phone.turn({ visible: true });
  assert.deepEqual(phone.calls, [ONLINE, 'disconnect', ONLINE]);
  await phone.connection.disconnect();
  const stays = device();
  await stays.connection.connect({ background: 'stay' });
  await stays.turn({ visible: false });
  assert.deepEqual(stays.calls, [ONLINE]);
  await stays.connection.disconnect();
});

test('who comes back in time keeps the connection, and may go again', async () => {
  let hangs = true;
  const phone = device({
    waiting: 1,
    upload: (signal) => hangs && new Promise((_, reject) => signal.addEventListener('abort', reject))
  });
  await phone.connection.connect({ grace: 60_000 });
  await phone.turn({ visible: false });
  await phone.turn({ visible: true });
  assert.deepEqual(phone.calls, [ONLINE]);
  hangs = false;
  await phone.turn({ visible: false });
  assert.deepEqual(phone.calls, [ONLINE, 'disconnect']);
  await phone.connection.disconnect();
});

test('the background ends in time, whatever the server does', async () => {
  const phone = device({ waiting: 1, upload: (signal) => new Promise((_, reject) => signal.addEventListener('abort', reject)) });
  await phone.connection.connect({ grace: 50 });
  await phone.turn({ visible: false }, 150);
  assert.deepEqual(phone.calls, [ONLINE, 'disconnect']);
  assert.equal(phone.waiting, 1);
  await phone.connection.disconnect();
});

test('flush tries again after what passes, and gives up on what does not', async () => {
  let tries = 0;
  const busy = device({
    waiting: 2,
    upload: async () => {
      if (++tries === 1) throw new LowtideError('unavailable', '', { status: 503, retryable: true });
    }
  });
  assert.equal(await busy.connection.flush(5_000), true);
  assert.equal(tries, 3);
  const never = device({ waiting: 2, upload: async () => Promise.reject(new LowtideError('other_user', '')) });
  const began = Date.now();
  assert.equal(await never.connection.flush(5_000), false);
  assert.ok(Date.now() - began < 1_000);
  assert.equal(await device().connection.flush(), true);
});

test('flush has its answer by its deadline, whatever hangs, and does nothing after it', async () => {
  const never = () => new Promise(() => {});
  const timed = async (work) => {
    const began = Date.now();
    const gone = await work;
    assert.ok(Date.now() - began < 1_000);
    return gone;
  };
  let [asked, free] = [0, null];
  const stuck = device({ waiting: 1, upload: never });
  assert.equal(await timed(stuck.connection.flush(50)), false);
  assert.equal(await timed(device({ waiting: 1 }).connection.flush(50, undefined, never)), false);
  // The database is locked by somebody else, and free again when it is too late.
  const locked = device({ waiting: 1, upload: async () => asked++ });
  locked.db.get = () => new Promise((resolve) => (free = resolve));
  assert.equal(await timed(locked.connection.flush(50)), false);
  free({ n: 1 });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(asked, 0);
  // What fails before is told, and what fails later is nobody's any more: a rejection would end this process.
  const broken = async () => Promise.reject(new LowtideError('storage', ''));
  await assert.rejects(device().connection.flush(50, undefined, broken), { code: 'storage' });
  let fail = null;
  const late = () => new Promise((_, reject) => (fail = reject));
  assert.equal(await timed(device().connection.flush(50, undefined, late)), false);
  fail(new Error('late'));
  await new Promise((resolve) => setTimeout(resolve, 20));
});

test('a network that comes back is used soon, and not by all in the same moment', async () => {
  const phone = device();
  await phone.connection.connect();
  await phone.turn({ online: false });
  phone.db.connected = false;
  await phone.turn({ online: true }, 2_200);
  assert.deepEqual(phone.calls, [ONLINE, ONLINE]);
  assert.equal(phone.hurried, 1);
  await phone.connection.disconnect();
  const delays = new Set();
  for (let i = 0; i < 50; i++) {
    const each = device();
    await each.connection.connect();
    delays.add(Math.round(each.options.retryDelayMs / 500));
    assert.ok(each.options.retryDelayMs >= 2_500 && each.options.retryDelayMs <= 7_500);
    await each.connection.disconnect();
  }
  assert.ok(delays.size > 4);
});

test('a connection that could not be made is told to whoever asked, or to all, and made at the next occasion', async () => {
  const phone = device();
  phone.fails = new Error('the database is locked');
  await assert.rejects(phone.connection.connect(), phone.fails);
  assert.equal(phone.connection.active, false);
  await phone.turn({ online: false });
  await phone.turn({ online: true }, 2_200); // nobody waits for these: a rejection would end this process
  assert.ok(phone.told.length >= 2 && phone.told.every((error) => error === phone.fails), String(phone.told));
  phone.fails = null;
  await phone.turn({ visible: true });
  assert.deepEqual([phone.calls.at(-1), phone.connection.active], [ONLINE, true]);
  await phone.connection.disconnect();
});

test("a server's wait is heeded by flush, too, however long", async () => {
  let tries = 0;
  const late = new LowtideError('unavailable', '', { status: 503, retryable: true, problem: { retry_after: 10 ** 9 } });
  const phone = device({ waiting: 1, upload: async () => Promise.reject((tries++, late)) });
  assert.equal(await phone.connection.flush(1_500), false);
  assert.equal(tries, 1);
});

test('who disconnects is left alone: no listener, no timer, no connection', async () => {
  const phone = device({ waiting: 1, upload: (signal) => new Promise((_, reject) => signal.addEventListener('abort', reject)) });
  await phone.connection.connect({ grace: 60_000 });
  await phone.turn({ visible: false });
  await phone.turn({ online: false });
  await phone.turn({ online: true }, 0);
  await phone.connection.disconnect();
  assert.equal(phone.heard(), false);
  const calls = phone.calls.length;
  await phone.turn({ visible: true, metered: true });
  assert.equal(phone.calls.length, calls);
  assert.equal(phone.calls.at(-1), 'disconnect');
  // A timer of a minute would keep this process alive: the run of the tests would not end in time.
});

test("React Native's NetInfo and AppState are understood", () => {
  let [network, shown, stopped] = [null, null, 0];
  const appState = {
    currentState: 'active',
    addEventListener: (_, listener) => {
      shown = listener;
      return { remove: () => stopped++ };
    }
  };
  const netInfo = {
    addEventListener: (listener) => {
      network = listener;
      return () => stopped++;
    }
  };
  const watch = nativeSurroundings(netInfo, appState);
  let told = 0;
  const stop = watch.subscribe(() => told++);
  assert.deepEqual(watch.now(), { online: true, metered: false, visible: true });
  network({ isConnected: null, details: null });
  assert.equal(watch.now().online, true, 'what is not known is not offline');
  network({ isConnected: true, details: { isConnectionExpensive: true } });
  appState.currentState = 'background';
  shown('background');
  assert.deepEqual(watch.now(), { online: true, metered: true, visible: false });
  appState.currentState = 'inactive'; // a call that comes in: the app is still there
  assert.equal(watch.now().visible, true);
  stop();
  assert.deepEqual([told, stopped, watch.background], [3, 2, 'pause']);
});
