// What was refused, made once more: in one transaction, or not at all.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Rejections } from '../dist/feeds.js';

/** A database with one refusal of a change to a record; `noted`: the SDK puts what is written into its queue. */
function device(refusal, noted) {
  const self = { kept: { refusals: ['r'], queue: 0, notes: [] } };
  const row = { id: 'r', op: 'patch', model: 'task', record_id: 't', data: '{"votes":1}', base: null, metadata: null, ...refusal };
  const tx = (draft) => ({
    getOptional: async (sql) => (sql.includes('lowtide_rejections') ? (draft.refusals.length > 0 ? row : null) : { 1: 1 }),
    get: async () => ({ n: draft.queue }),
    async execute(sql, values) {
      if (sql.startsWith('DELETE FROM lowtide_rejections')) draft.refusals = [];
      else if (sql.startsWith('UPDATE "task"')) draft.queue += noted ? 1 : 0;
      else if (sql.includes('lowtide_upload')) draft.notes.push(values[0]);
      else assert.fail(sql);
    }
  });
  const db = {
    schema: { tables: [{ name: 'task', viewName: 'task' }] },
    execute: async () => {},
    async writeTransaction(work) {
      const draft = structuredClone(self.kept);
      const result = await work(tx(draft));
      self.kept = draft; // only what did not throw
      return result;
    }
  };
  self.retry = () => new Rejections(db).retry('r').then(() => 'ok', ({ code }) => code);
  return self;
}

test('a refusal goes only when its change is in the queue again', async () => {
  for (const refusal of [{}, { base: '{"votes":0}' }, { op: 'put' }]) {
    const told = refusal.base || refusal.op === 'put';
    const good = device(refusal, true);
    assert.equal(await good.retry(), 'ok');
    assert.deepEqual([good.kept.refusals, good.kept.queue, good.kept.notes], [[], 1, told ? ['change:1'] : []]);
    // The SDK leaves out what changes nothing where the app's schema says `ignoreEmptyUpdates`.
    const same = device(refusal, false);
    assert.equal(await same.retry(), 'not_retryable');
    assert.deepEqual([same.kept.refusals, same.kept.queue, same.kept.notes], [['r'], 0, []]);
  }
});
