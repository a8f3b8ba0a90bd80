// An RxDB phone pulls more than a page's bytes: what fills the page up is told to nobody.

import { joinTeam, put, scenario, server } from './harness.mjs';
import { eventually, rx } from './rx.mjs';

const ROWS = 60;
const FILLS = '\u200blowtide';

await scenario(async () => {
  const pages = [];
  let pushed = 0;
  const real = globalThis.fetch;
  globalThis.fetch = async (address, options) => {
    const answer = await real(address, options);
    if (String(address).endsWith('/push')) pushed++;
    if (!String(address).includes('/pull?')) return answer;
    const text = await answer.text();
    const found = JSON.parse(text).documents;
    pages.push({ documents: found.length, filled: found.some(({ id }) => id === FILLS), bytes: text.length });
    return new Response(text, answer);
  };
  await joinTeam('red', 'anna');
  const body = 'x'.repeat(200_000);
  for (let at = 0; at < ROWS; at += 20) {
    const ids = Array.from({ length: 20 }, (_, n) => `card${at + n}`);
    await server(...ids.map((id) => put('card', id, { team_id: 'red', body })));
  }
  const anna = await rx('anna', { names: ['card'], online: false });
  const told = [];
  anna.db.card.$.subscribe(({ documentId }) => told.push(documentId));
  anna.online();
  await eventually(async () => Object.keys(await anna.rows('card')).length === ROWS);
  await anna.synced();
  const kept = await anna.db.card.storageInstance.findDocumentsById([FILLS], true);
  return { pages, pushed, told: told.sort(), kept: kept.map((one) => one._deleted), errors: anna.errors.length };
});
