// The site of a web app: its page, and everything else passed on to the server, as a proxy in front does.

import { readFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const workers = join(here, '../../../node_modules/@powersync/web/dist/worker');
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.map': 'application/json' };

/**
 * Serves it on a free port. `cut()` takes the server away, and all that is under way; `mend()` brings it back. The
 * page itself can always be had, as from a service worker's cache. `bytes` counts what the server sent. Answers to
 * requests of which `lose` says so are lost, after the server has given them.
 */
export async function site(url, { lose = () => false } = {}) {
  const options = { bundle: true, write: false, format: 'esm', target: 'es2022', logLevel: 'error' };
  const { outputFiles } = await build({ entryPoints: [join(here, 'page.mjs')], ...options });
  const page = outputFiles[0].text;
  const self = { bytes: 0 };
  const open = new Set();
  let away = false;

  const forward = (asked, answer) => {
    const headers = { ...asked.headers, host: new URL(url).host };
    const there = request(`${url}${asked.url}`, { method: asked.method, headers }, (answered) => {
      if (lose(asked)) return answer.destroy();
      answer.writeHead(answered.statusCode, answered.headers);
      answered.on('data', (chunk) => (self.bytes += chunk.length));
      answered.pipe(answer);
      answered.on('error', () => answer.destroy());
    });
    open.add(there);
    there.on('close', () => open.delete(there));
    there.on('error', () => answer.destroy());
    answer.on('close', () => there.destroy());
    asked.pipe(there);
  };

  const serve = async (asked, answer) => {
    if (asked.url === '/') {
      answer.writeHead(200, { 'content-type': 'text/html' });
      answer.end('<!doctype html><title>crew</title><script type="module" src="/page.js"></script>');
    } else if (asked.url === '/page.js') {
      answer.writeHead(200, { 'content-type': 'text/javascript' });
      answer.end(page);
    } else if (asked.url === '/favicon.ico') {
      answer.writeHead(204).end();
    } else if (asked.url.startsWith('/worker/')) {
      const file = join(workers, asked.url.slice('/worker/'.length).split('?')[0]);
      answer.writeHead(200, { 'content-type': TYPES[extname(file)] });
      answer.end(await readFile(file));
    } else if (away) {
      asked.socket.destroy();
    } else {
      forward(asked, answer);
    }
  };

  const server = createServer((asked, answer) => void serve(asked, answer).catch(() => answer.destroy()));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(self, {
    address: `http://127.0.0.1:${server.address().port}/`,
    cut: () => {
      away = true;
      for (const one of open) one.destroy();
    },
    mend: () => {
      away = false;
    }
  });
}
