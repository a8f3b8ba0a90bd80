// One at a time: in this page, and over all tabs where the platform has Web Locks.

const waiting = new Map<string, Promise<unknown>>();

/** Run `work` while nobody else does so under `name`. */
export async function locked<T>(name: string, work: () => Promise<T>): Promise<T> {
  const locks = (globalThis.navigator as Navigator | undefined)?.locks;
  // (Web Locks are missing on pages that are not https, and on React Native, where there is one page only.)
  if (locks) return (await locks.request(name, work)) as T;
  const before = waiting.get(name);
  const mine = (async () => {
    await before?.catch(() => {});
    return work();
  })();
  waiting.set(name, mine);
  try {
    return await mine;
  } finally {
    if (waiting.get(name) === mine) waiting.delete(name);
  }
}
