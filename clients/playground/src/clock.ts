// Another clock for a whole realm: `Date` here says what the phone believes, `real` what is true. A worker has
// a realm of its own, so each of a phone's two realms is told of every change by a channel.

const True = Date;

/** Milliseconds by which this phone's clock is ahead. */
let ahead = 0;

/** Now, in milliseconds, by the clock of the machine. */
export const real = (): number => True.now();

class Believed extends True {
  constructor(...given: []) {
    if (given.length === 0) super(True.now() + ahead);
    else super(...given);
  }

  static override now(): number {
    return True.now() + ahead;
  }
}

/** Give this realm the clock of `phone`, `first` milliseconds ahead until another is set. */
export function setUpClock(phone: string, first: number): void {
  ahead = first;
  globalThis.Date = Believed as DateConstructor;
  channel(phone).onmessage = ({ data }: MessageEvent<number>) => (ahead = data);
}

/** Set the clock of `phone` in its other realms, and in this one. */
export function setClock(phone: string, milliseconds: number): void {
  if (milliseconds === ahead) return;
  ahead = milliseconds;
  const told = channel(phone);
  told.postMessage(milliseconds);
  told.close();
}

function channel(phone: string): BroadcastChannel {
  return new BroadcastChannel(`lowtide-playground-clock-${phone}`);
}
