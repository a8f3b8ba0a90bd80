// What the phones of every system have in common: they are told what to do, a line of JSON at a time, and say
// when it is done.

import { createInterface } from 'node:readline';

/** { url, name, folder, token } */
export const told = JSON.parse(process.env.PHONE);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * phone: { online(), offline(), write(ids, title), count(), titled(title) }, each may be asynchronous. `count` is how
 * many tasks this phone holds, `titled` how many of them have that title.
 */
export async function serve(phone) {
  const reached = async (look, wanted) => {
    while ((await look()) < wanted) await sleep(10);
  };
  const does = {
    online: () => phone.online(),
    offline: () => phone.offline(),
    write: ({ ids, title }) => phone.write(ids, title),
    holds: ({ n }) => reached(() => phone.count(), n),
    shows: ({ title, n }) => reached(() => phone.titled(title), n)
  };
  process.stdout.write('ready\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const step = JSON.parse(line);
    try {
      await does[step.do](step);
      process.stdout.write('done\n');
    } catch (error) {
      process.stdout.write(`failed ${JSON.stringify(String(error))}\n`);
    }
  }
  process.exit(0);
}
