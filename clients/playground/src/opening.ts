// How a phone opens its database: one phone at a time, and anew where that does not come to an end.

import type { PhoneId } from './switches';

const ONE_AT_A_TIME = 'lowtide-playground-opening'; // the name of a Web Lock
const PATIENCE = 15_000; // milliseconds for the first try; twice as long for each that follows
const AGAIN = 2; // times that a phone starts anew; then it waits as long as it takes
const key = (phone: PhoneId) => `lowtide-playground-opening-${phone}`;

/** How often this phone's database has not opened by now. */
export function failures(phone: PhoneId): number {
  return Number(sessionStorage.getItem(key(phone)) ?? 0);
}

/**
 * What `open` gives. Where it fails, or takes too long, the page is loaded anew, which lets go of whatever hangs.
 *
 * The SDK's storage begins by clearing away what workers that are gone have left behind, and fails with a
 * `NotFoundError` where two of them do so in the same moment: three phones that start over, or two tabs.
 */
export async function opening<T>(phone: PhoneId, open: () => Promise<T>): Promise<T> {
  if (!navigator.locks) return open(); // not a page that is given storage: it says so
  const failed = failures(phone);
  let work: Promise<T> | undefined;
  const late = () =>
    new Promise<void>((resolve, reject) => {
      const end = () => (failed < AGAIN ? reject(new Error('The database does not open.')) : resolve());
      setTimeout(end, PATIENCE * 2 ** failed);
    });
  try {
    // Whoever hangs keeps the others waiting for a while only.
    await navigator.locks.request(ONE_AT_A_TIME, () => Promise.race([(work = open()), late()]));
    const opened = await work!;
    sessionStorage.removeItem(key(phone));
    return opened;
  } catch (error) {
    if (failed >= AGAIN) {
      sessionStorage.removeItem(key(phone));
      throw error;
    }
    sessionStorage.setItem(key(phone), String(failed + 1));
    location.reload();
    return new Promise(() => {}); // the page is going
  }
}
