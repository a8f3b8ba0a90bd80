// Every store keeps what it took, also when the app dies in the middle.

import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileStore, memoryStore, secureStore, webStore } from '../dist/storage.js';

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
