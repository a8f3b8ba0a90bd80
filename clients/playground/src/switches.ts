// The switches of a phone. They are kept in localStorage, so that they outlive a reload, and every window of this
// origin hears of a change: the page sets them, the phone in its frame (or in a tab of its own) obeys.

export const PHONES = ['a', 'b', 'c'] as const;
export type PhoneId = (typeof PHONES)[number];

export interface Switches {
  user: string;
  airplane: boolean;
  /** Slow train: seconds of delay, a few kilobytes a second, and tunnels. */
  train: boolean;
  /** Lossy basement: requests and answers get lost, streams break in mid line. */
  basement: boolean;
  /** Milliseconds by which the phone's clock is ahead. */
  ahead: number;
}

const FIRST: Record<PhoneId, string> = { a: 'ann', b: 'ben', c: 'cleo' };
/** Everybody who can hold a phone; dora is in no team until somebody lets her in. */
export const USERS = ['ann', 'ben', 'cleo', 'dora'];
/** In place of one of them: a guest, or whoever signs in on the phone. */
export const ACCOUNT = 'account';

const key = (phone: PhoneId) => `lowtide-playground-${phone}`;
const hearers = new Set<(phone: PhoneId, now: Switches) => void>();

export function readSwitches(phone: PhoneId): Switches {
  const usual = { user: FIRST[phone], airplane: false, train: false, basement: false, ahead: 0 };
  try {
    return { ...usual, ...JSON.parse(localStorage.getItem(key(phone)) ?? '{}') };
  } catch {
    return usual;
  }
}

export function setSwitches(phone: PhoneId, changed: Partial<Switches>): void {
  const now = { ...readSwitches(phone), ...changed };
  localStorage.setItem(key(phone), JSON.stringify(now));
  for (const hear of hearers) hear(phone, now); // other windows hear of it by the event below
}

export function resetSwitches(): void {
  for (const phone of PHONES) {
    localStorage.removeItem(key(phone));
    for (const hear of hearers) hear(phone, readSwitches(phone));
  }
}

/** Hear of every change, wherever it was made. Returns how to stop. */
export function onSwitches(hear: (phone: PhoneId, now: Switches) => void): () => void {
  hearers.add(hear);
  return () => hearers.delete(hear);
}

addEventListener('storage', (event) => {
  const phone = PHONES.find((one) => event.key === key(one));
  if (phone) for (const hear of hearers) hear(phone, readSwitches(phone));
});
