// What `lowtide dev` would have sent.

import { sleep, url } from './harness.mjs';

const WAIT = 20_000;
const CODE = /(\d{4} ?\d{4}|\d{3} ?\d{3})/;
const read = new Set(); // each message counts once

/** The code in the newest message to `to` that was not read yet; waits for it. */
export async function code(to) {
  for (const end = Date.now() + WAIT; Date.now() < end; await sleep(50)) {
    const { messages } = await (await fetch(`${url}/dev/outbox.json`)).json();
    for (const { subject, text, sent_at, to: whom } of messages) {
      const found = whom === to && CODE.exec(`${subject}\n${text}`);
      if (!found || read.has(`${sent_at} ${text}`)) continue;
      read.add(`${sent_at} ${text}`);
      return found[1].replaceAll(' ', '');
    }
  }
  throw new Error(`nothing came to ${to}`);
}
