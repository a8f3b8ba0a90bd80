// Texts, numbers and ids at the edges of what SQLite and JavaScript hold.

import { caughtUp, content, joinTeam, phone, scenario } from './harness.mjs';

const TITLES = {
  empty: '',
  quotes: `'"\`\\`,
  json: '{"a": [1, null]}',
  lines: 'a\nb\r\nc\td',
  emoji: '🌊👩‍👩‍👧‍👦é\u0301',
  direction: '\u202eright to left\u202c',
  separators: '\u2028\u2029\ufeff',
  nul: 'a\u0000b',
  sql: "'); DROP TABLE task; --",
  number: '007'
};
const NUMBERS = { zero: 0, minus: -1, large: 2 ** 53 - 1, small: -(2 ** 53 - 1) };
const IDS = ['with space', 'ünïcödé', '🌊', 'sla/sh', 'quo"te', "apo's", 'x'.repeat(100), '0'];
const BAD_IDS = ['', 'control\nid', 'x'.repeat(200)];

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  const { db } = anna;
  const insert = (id, title, estimate = null) =>
    db.execute('INSERT INTO task(id, team_id, title, estimate) VALUES (?, ?, ?, ?)', [id, 'red', title, estimate]);
  for (const [id, title] of Object.entries(TITLES)) await insert(id, title);
  // As BigInt: this SDK's driver stores a plain number as REAL, and that has 15 digits in JSON.
  for (const [id, number] of Object.entries(NUMBERS)) await insert(id, 'Number', BigInt(number));
  for (const id of [...IDS, ...BAD_IDS]) await insert(id, 'Id');
  await insert('last', 'Behind them all');
  await caughtUp(anna, ben);
  return {
    titles: TITLES,
    numbers: NUMBERS,
    ids: IDS,
    anna: await content(anna),
    ben: await content(ben),
    uploadError: db.currentStatus.uploadError ?? null
  };
});
