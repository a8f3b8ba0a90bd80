// A mail server for this machine: it takes what Lowtide sends, and gives the newest code to an address.

import { createServer } from 'node:net';

/** Listens on `port`; `await code(address)` waits for a mail to it that nobody asked for before; so does `link`. */
export async function mailbox(port) {
  const mails = [];
  const waiting = new Set();
  const server = createServer((socket) => {
    let rest = '';
    let data = null;
    const say = (line) => socket.write(`${line}\r\n`);
    socket.setEncoding('utf8');
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      rest += chunk;
      for (let at; (at = rest.indexOf('\r\n')) >= 0; ) {
        const line = rest.slice(0, at);
        rest = rest.slice(at + 2);
        if (data !== null && line !== '.') data.push(line);
        else if (data !== null) {
          mails.push(data.join('\n').replaceAll('=\n', ''));
          data = null;
          waiting.forEach((look) => look());
          say('250 taken');
        } else if (/^DATA/i.test(line)) {
          data = [];
          say('354 go ahead');
        } else if (/^QUIT/i.test(line)) socket.end('221 bye\r\n');
        else say('250 ok');
      }
    });
    say('220 mail.test ESMTP');
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  /** Waits for a mail to `address`, and gives what `pattern` finds in it. */
  const find = (address, pattern) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`no mail to ${address}`)), 20_000);
      const look = () => {
        const at = mails.findIndex((mail) => mail.includes(address));
        if (at < 0) return;
        const [mail] = mails.splice(at, 1);
        clearTimeout(late);
        waiting.delete(look);
        resolve(pattern.exec(mail)[1]);
      };
      waiting.add(look);
      look();
    });
  const code = async (address) => (await find(address, /^Subject: ([\d ]+) is your code/im)).replaceAll(' ', '');
  const link = async (address) => (await find(address, /(http\S+\/v1\/auth\/email\/link\?token=3D\w+|http\S+link\?token=\w+)/)).replace('=3D', '=');
  return { code, link, close: () => server.close() };
}
