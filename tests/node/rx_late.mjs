// An event that was sent before the answer to a push, and comes after it.

import { joinTeam, put, scenario, server } from './harness.mjs';
import { eventually, rx } from './rx.mjs';

// Streams of the phone that is held wait at the gate.
let [gate, open, held, waits] = [Promise.resolve(), () => {}, '', 0];
const real = globalThis.fetch;
globalThis.fetch = async (address, options) => {
  const answer = await real(address, options);
  if (options?.headers?.['x-lowtide-client'] !== held || !String(address).endsWith('/pullStream')) return answer;
  const passing = new TransformStream({
    async transform(part, out) {
      waits++;
      await gate;
      out.enqueue(part);
    }
  });
  return new Response(answer.body.pipeThrough(passing), answer);
};

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  await server(put('task', 'task', { team_id: 'red', title: 'Start', votes: 10 }));
  const [anna, ben] = [await rx('anna'), await rx('ben', { online: false })];
  held = ben.clientId;
  ben.online();
  const votes = async (phone) => (await phone.rows('task')).task?.votes;
  const more = async (phone) => phone.change('task', 'task', { votes: (await votes(phone)) + 1 });
  for (const phone of [anna, ben]) await eventually(async () => (await votes(phone)) === 10);
  for (const phone of [anna, ben]) await phone.synced();

  gate = new Promise((resolve) => (open = resolve));
  waits = 0;
  await more(anna);
  await eventually(() => waits > 0); // the event of anna's vote is at the gate
  await more(ben);
  await eventually(async () => (await votes(ben)) === 12); // the answer brought it
  await more(ben);
  for (const state of ben.states) await state.awaitInSync();
  open();
  await server(put('task', 'mark', { team_id: 'red', title: 'Mark', votes: 0 }));
  await eventually(async () => (await ben.rows('task')).mark);
  const shown = await votes(ben);
  await more(ben);
  for (const phone of [ben, anna]) await phone.synced();
  await eventually(async () => (await votes(anna)) === (await votes(ben)));
  return { shown, end: await votes(anna), errors: ben.errors.length };
});
