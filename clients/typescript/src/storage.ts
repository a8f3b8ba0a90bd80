// Where a session is kept: a small port, and what stands behind it on each platform.

import { LowtideError } from './errors.js';

/**
 * Keeps texts by name. `set` replaces the whole text or nothing of it, also when the app dies in the middle, and has
 * kept it when its promise is fulfilled. All throw when they cannot: a key store that is locked is not an empty one.
 */
export interface Store {
  get(name: string): Promise<string | null>;
  set(name: string, value: string): Promise<void>;
  remove(name: string): Promise<void>;
}

/** `localStorage`, or what is like it but answers with promises, such as React Native's AsyncStorage. */
export interface WebStorageLike {
  getItem(name: string): string | null | Promise<string | null>;
  setItem(name: string, value: string): void | Promise<void>;
  removeItem(name: string): void | Promise<void>;
}

/** `expo-secure-store`, or what is like it. */
export interface SecureStoreLike {
  getItemAsync(name: string, options?: object): Promise<string | null>;
  setItemAsync(name: string, value: string, options?: object): Promise<void>;
  deleteItemAsync(name: string, options?: object): Promise<void>;
}

/** Forgets everything at the end of the process: for tests, and for servers that sign in anew. */
export function memoryStore(): Store {
  const kept = new Map<string, string>();
  return {
    get: async (name) => kept.get(name) ?? null,
    set: async (name, value) => void kept.set(name, value),
    remove: async (name) => void kept.delete(name)
  };
}

/** In `localStorage`, shared by all tabs of an origin. */
export function webStore(storage?: WebStorageLike): Store {
  const kept = () => storage ?? globalThis.localStorage; // throws where the user blocks it: each call does, then
  return {
    get: async (name) => kept().getItem(name),
    set: async (name, value) => kept().setItem(name, value),
    remove: async (name) => kept().removeItem(name)
  };
}

/** In IndexedDB: for workers, which have no `localStorage`. */
export function indexedDbStore(database = 'lowtide'): Store {
  const run = <T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      const opening = indexedDB.open(database, 1);
      opening.onupgradeneeded = () => void opening.result.createObjectStore('kept');
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const db = opening.result;
        const over = (done: () => void) => () => {
          db.close();
          done();
        };
        if (!db.objectStoreNames.contains('kept')) return over(() => reject(new Error(`'${database}' is another database.`)))();
        const transaction = db.transaction('kept', mode, { durability: 'strict' });
        const request = work(transaction.objectStore('kept'));
        transaction.oncomplete = over(() => resolve(request.result));
        transaction.onabort = over(() => reject(transaction.error));
      };
    });
  return {
    get: async (name) => ((await run('readonly', (store) => store.get(name))) as string | undefined) ?? null,
    set: async (name, value) => void (await run('readwrite', (store) => store.put(value, name))),
    remove: async (name) => void (await run('readwrite', (store) => store.delete(name)))
  };
}

const PART = 1_800; // bytes: older versions of SecureStore take 2,048
const MOST = 64; // parts of a text

/**
 * In the phone's key store. A long text lies there in parts: the new parts first, then the entry that names them, so
 * that there is always a whole one. `options` go along with each call: choose one that no backup takes to another
 * device, such as `{ keychainAccessible: SecureStore.AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY }`.
 */
export function secureStore(store: SecureStoreLike, options: object = {}): Store {
  const part = (name: string, place: string, i: number) => `${name}.${place}.${i}`;
  /** Where the text lies, and in how many parts. */
  const read = async (name: string) => {
    const entry = await store.getItemAsync(name, options);
    const [, place = '', count = '0'] = /^parts:([ab]):(\d+)$/.exec(entry ?? '') ?? [];
    return { entry, place, count: Number(count) };
  };
  /** Also what a write that died has left there: parts are written upwards and deleted downwards, without a gap. */
  const clear = async (name: string, place: string, from: number) => {
    // (What cannot be read is there, too: of a key store that was reset.)
    const there = (i: number) => store.getItemAsync(part(name, place, i), options).then((text) => text !== null, () => true);
    let end = from;
    while (end < MOST && (await there(end))) end++;
    while (end-- > from) await store.deleteItemAsync(part(name, place, end), options);
  };
  return {
    async get(name) {
      const { entry, place, count } = await read(name);
      if (!place) return entry;
      let text = '';
      for (let i = 0; i < count; i++) {
        const value = await store.getItemAsync(part(name, place, i), options);
        if (value === null) throw new LowtideError('storage', `A part of '${name}' is missing in the key store.`);
        text += value;
      }
      return decodeURIComponent(text);
    },
    async set(name, value) {
      const before = await read(name);
      const place = before.place === 'a' ? 'b' : 'a';
      const text = encodeURIComponent(value);
      const count = Math.ceil(text.length / PART);
      for (let i = 0; i < count; i++) {
        await store.setItemAsync(part(name, place, i), text.slice(i * PART, (i + 1) * PART), options);
      }
      await store.setItemAsync(name, `parts:${place}:${count}`, options);
      await clear(name, place, count);
      if (before.place) await clear(name, before.place, 0);
    },
    async remove(name) {
      await store.deleteItemAsync(name, options);
      await clear(name, 'a', 0);
      await clear(name, 'b', 0);
    }
  };
}

interface Files {
  readFile(path: string, encoding: 'utf8'): Promise<string>;
  open(path: string, flags: string, mode: number): Promise<FileHandle>;
  rename(from: string, to: string): Promise<void>;
  rm(path: string, options: { force: boolean }): Promise<void>;
  mkdir(path: string, options: { recursive: boolean }): Promise<unknown>;
}
interface FileHandle {
  writeFile(text: string): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** In files of a folder, which only their owner may read. For Node 20.16 or newer; one process at a time. */
export function fileStore(folder: string): Store {
  // Asked for at run time, so that no bundler for a browser stumbles over it.
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  const files = process?.getBuiltinModule?.('node:fs/promises') as Files | undefined;
  if (!files) throw new LowtideError('unsupported', 'Files are kept by Node 20.16 or newer only.');
  const path = (name: string) => `${folder}/${encodeURIComponent(name)}.json`;
  return {
    get: (name) =>
      files.readFile(path(name), 'utf8').catch((error: { code?: string }) => {
        if (error.code === 'ENOENT') return null;
        throw error;
      }),
    async set(name, value) {
      await files.mkdir(folder, { recursive: true });
      const file = await files.open(`${path(name)}.new`, 'w', 0o600);
      try {
        await file.writeFile(value);
        await file.sync();
      } finally {
        await file.close();
      }
      await files.rename(`${path(name)}.new`, path(name));
    },
    remove: (name) => files.rm(path(name), { force: true })
  };
}
