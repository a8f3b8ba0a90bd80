// On the wire: BSON and JSON lines, each as they are and compressed; the same content every time.

import { Agent, request as http } from 'node:http';
import { createGunzip } from 'node:zlib';
import { ask, content, joinTeam, phone, put, scenario, server, url } from './harness.mjs';

const FORMATS = { bson: 'application/vnd.powersync.bson-stream', json: 'application/x-ndjson' };

/** Bytes of a first download up to its checkpoint's end, as they are on the wire. */
function measure(token, encoding) {
  return new Promise((resolve, reject) => {
    const headers = {
      authorization: `Token ${token}`,
      'content-type': 'application/json',
      'accept-encoding': encoding,
      accept: FORMATS.json
    };
    const sent = http(`${url}/sync/stream`, { method: 'POST', headers, agent: new Agent() }, (response) => {
      let bytes = 0;
      let tail = '';
      response.on('data', (chunk) => (bytes += chunk.length));
      const lines = encoding === 'gzip' ? response.pipe(createGunzip()) : response;
      lines.on('data', (chunk) => {
        tail = (tail + chunk).slice(-2_000);
        if (tail.includes('checkpoint_complete')) {
          sent.destroy();
          resolve({ encoding: response.headers['content-encoding'] ?? null, bytes });
        }
      });
      lines.on('error', () => {});
    });
    sent.on('error', reject);
    sent.end(JSON.stringify({ client_id: 'meter', raw_data: true, streams: { include_defaults: true, subscriptions: [] } }));
  });
}

await scenario(async () => {
  await joinTeam('red', 'anna');
  const task = (_, i) => put('task', `task-${i}`, { team_id: 'red', title: `Täsk ${i} 🌊`, notes: 'low '.repeat(50) });
  await server(...Array.from({ length: 500 }, task));
  const seen = {};
  for (const [name, accept] of Object.entries(FORMATS)) {
    for (const encoding of ['gzip', 'identity']) {
      const answers = [];
      const customFetch = async (resource, init) => {
        const headers = { ...init.headers, 'accept-encoding': encoding, ...(init.headers.accept && { accept }) };
        const response = await fetch(resource, { ...init, headers });
        if (resource.endsWith('/sync/stream')) {
          answers.push({
            type: response.headers.get('content-type'),
            encoding: response.headers.get('content-encoding')
          });
        }
        return response;
      };
      const anna = await phone('anna', { file: `${name}-${encoding}.db`, remoteOptions: { customFetch } });
      await anna.db.waitForFirstSync();
      seen[`${name} ${encoding}`] = { answers, tasks: (await content(anna)).task };
      await anna.offline();
    }
  }
  // What the SDK asks for by itself.
  const asked = [];
  const customFetch = async (resource, init) => {
    const response = await fetch(resource, init);
    asked.push([new URL(resource).pathname, response.headers.get('content-encoding')]);
    return response;
  };
  const usual = await phone('anna', { file: 'usual.db', remoteOptions: { customFetch } });
  await usual.db.waitForFirstSync();
  const token = await ask('token', { user: 'anna' });
  return { seen, asked, plain: await measure(token, 'identity'), gzip: await measure(token, 'gzip') };
});
