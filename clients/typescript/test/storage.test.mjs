// Every store keeps what it took, also when the app dies in the middle.

import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Session } from '../dist/session.js';
import { fileStore, memoryStore, secureStore, webStore } from '../dist/storage.js';
import { fetching, Server } from './server.mjs';

/** As the phones': entries of 2,048 bytes at most, and a device that may be locked or die. */
function keyStore() {
  const kept = new Map();
  const self = { kept, locked: false, calls: Infinity };
  const call = () => {
    if (self.locked) throw new Error('the device is locked');
    if (self.calls-- <= 0) throw new Error('the app died');
  };
  return Object.assign(self, {
    getItemAsync: async (name) => (call(), kept.get(name) ?? null),
    setItemAsync: async (name, value, options) => {
      call();
      assert.match(name, /^[\w.-]+$/);
      assert.ok(Buffer.byteLength(value) <= 2048, 'too long for the key store');
      assert.equal(options.keychainAccessible, 7);
      kept.set(name, value);
    },
    deleteItemAsync: async (name) => (call(), void kept.delete(name))
  });
}

/** `localStorage`, answering at once. */
function pageStorage() {
  const kept = new Map();
  return {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, value) => void kept.set(name, value),
    removeItem: (name) => void kept.delete(name)
  };
}

const folder = await mkdtemp(join(tmpdir(), 'lowtide-store-'));
process.on('exit', () => rm(folder, { recursive: true, force: true }));
const stores = {
  memory: memoryStore(),
  web: webStore(pageStorage()),
  secure: secureStore(keyStore(), { keychainAccessible: 7 }),
  file: fileStore(join(folder, 'deep', 'er'))
};

for (const [name, store] of Object.entries(stores)) {
  test(`${name}: what is kept is found, replaced and removed`, async () => {
    assert.equal(await store.get('lowtide.session'), null);
    await store.remove('lowtide.session');
    for (const text of ['', 'a', `{"name": "Zoë 🌊 %20 \\u0000"}`, 'ü🌊'.repeat(3_000), 'short again']) {
      await store.set('lowtide.session', text);
      await store.set('lowtide.other', 'beside');
      assert.equal(await store.get('lowtide.session'), text);
    }
    await store.remove('lowtide.session');
    assert.equal(await store.get('lowtide.session'), null);
    assert.equal(await store.get('lowtide.other'), 'beside');
  });
}

test('secure: an app that dies in the middle finds the old text or the new one, whole', async () => {
  const [old, new_] = ['o'.repeat(5_000), 'n'.repeat(9_000)];
  let torn = 0;
  for (let calls = 0; calls < 20; calls++) {
    const keys = keyStore();
    const store = secureStore(keys, { keychainAccessible: 7 });
    await store.set('s', old);
    keys.calls = calls;
    const died = await store.set('s', new_).then(
      () => false,
      () => true
    );
    keys.calls = Infinity;
    const found = await store.get('s');
    assert.ok(found === old || found === new_, `after ${calls} calls`);
    if (!died) assert.equal(found, new_);
    if (died) torn++;
    // And what was left behind does not stay.
    for (let again = 0; again < 2; again++) await store.set('s', old);
    assert.equal(await store.get('s'), old);
    assert.equal(keys.kept.size, 1 + Math.ceil(old.length / 1800));
    await store.remove('s');
    assert.equal(keys.kept.size, 0);
  }
  assert.ok(torn > 5);
});

test('web: storage that the user blocks is no empty one, and throws when it is used', async (t) => {
  const before = Object.getOwnPropertyDescriptor(globalThis, 'localStorage');
  t.after(() => (before ? Object.defineProperty(globalThis, 'localStorage', before) : delete globalThis.localStorage));
  const get = () => {
    throw new DOMException('blocked', 'SecurityError');
  };
  Object.defineProperty(globalThis, 'localStorage', { configurable: true, get });
  const store = webStore();
  for (const use of [() => store.get('s'), () => store.set('s', 'x'), () => store.remove('s')]) {
    await assert.rejects(use(), { name: 'SecurityError' });
  }
});

test('secure: a locked device is no empty one', async () => {
  const keys = keyStore();
  const store = secureStore(keys, { keychainAccessible: 7 });
  await store.set('s', 'kept');
  keys.locked = true;
  await assert.rejects(store.get('s'));
  await assert.rejects(store.set('s', 'other'));
  keys.locked = false;
  assert.equal(await store.get('s'), 'kept');
});

test('secure: of a key store that was reset what was kept can be thrown away, and the session begun anew', async () => {
  const keys = keyStore();
  const { getItemAsync, setItemAsync, deleteItemAsync } = keys;
  const spoilt = new Set();
  const server = new Server();
  const begin = async () => {
    const session = new Session({ endpoint: 'http://x', store: secureStore(keys, { keychainAccessible: 7 }), fetch: fetching(server) });
    return Object.assign(session, { state_: await session.restore().then(({ status }) => status, ({ code }) => code) });
  };
  const before = await begin();
  server.user = { ...server.user, claims: { long: 'x'.repeat(9_000) } };
  await before.signIn.anonymous();
  before.close();
  for (const name of keys.kept.keys()) spoilt.add(name);
  assert.ok(spoilt.size > 4);
  keys.getItemAsync = async (name, options) => {
    if (spoilt.has(name)) throw new Error('Could not decrypt the value.');
    return getItemAsync(name, options);
  };
  keys.setItemAsync = async (name, ...rest) => (await setItemAsync(name, ...rest), void spoilt.delete(name));
  keys.deleteItemAsync = async (name) => (await deleteItemAsync(name), spoilt.delete(name));
  const after = await begin();
  assert.equal(after.state_, 'storage');
  await assert.rejects(after.signIn.anonymous(), { code: 'storage' });
  await after.abandon();
  assert.deepEqual([after.state.status, after.user], ['signed_out', null]);
  server.user = { id: 'anna', anonymous: true, claims: {}, roles: [] };
  assert.equal((await after.signIn.anonymous()).user.id, 'anna');
  after.close();
  const later = await begin();
  assert.equal(later.state_, 'authenticated_offline');
  assert.equal(spoilt.size, 0);
  later.close();
});

test('file: only its owner reads it, names stay in the folder, and no half is left', async () => {
  const place = join(folder, 'own');
  const store = fileStore(place);
  await store.set('../../up', 'secret');
  const names = await readdir(place);
  assert.equal(names.length, 1);
  assert.equal((await stat(join(place, names[0]))).mode & 0o777, 0o600);
  assert.equal(await readFile(join(place, names[0]), 'utf8'), 'secret');
  assert.equal(await store.get('../../up'), 'secret');
});
