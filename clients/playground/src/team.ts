// What the page does as the app's own server: the team that it plays with, and who is in it.

import { asServer, newId, ServerError, type Facts, type View } from './server';

export const TEAM = 'playground'; // as view.py has it
const LIST = 'playground-list';

const NEEDED: Record<string, string[]> = {
  membership: ['team_id', 'user_id'],
  todo_list: ['team_id', 'title'],
  todo: ['team_id', 'list_id', 'title', 'done']
};

/** What the app lacks of that which the page plays with, in words; empty: it can play. */
export function missing({ merges }: Facts): string[] {
  return Object.entries(NEEDED).flatMap(([model, fields]) => {
    const declared = merges[model];
    if (!declared) return [`the model ${model}`];
    return fields.filter((field) => !(field in declared)).map((field) => `the field ${model}.${field}`);
  });
}

/** Is there a list to play with? */
export function isSet(view: View): boolean {
  return view.records.todo_list?.some((one) => one.data.team_id === TEAM) ?? false;
}

/** Found the team with a list, if nobody else just did. */
export async function setUp({ merges }: Facts): Promise<void> {
  const fields = merges.todo ?? {};
  const create = (model: string, id: string, data: object) => ({ op: 'create', model, id, data });
  const todos = [
    { title: 'Firewood', labels: ['heavy'], votes: 2, notes: 'Ask next door first.' },
    { title: 'Coffee and a pot', labels: ['kitchen'], votes: 4, steps: ['Grind the beans', 'Pack the filters'] },
    { title: 'Maps of the coast', labels: [], votes: 1 },
    { title: 'A tent for four', labels: ['heavy', 'shared'], votes: 3, steps: ['Count the pegs'] }
  ];
  const writes = [
    ...['ann', 'ben', 'cleo'].map((user) => create('membership', newId(), { team_id: TEAM, user_id: user })),
    create('todo_list', LIST, { team_id: TEAM, title: 'A weekend at the sea' }),
    ...todos.map((todo) => {
      const steps = todo.steps?.map((text) => ({ id: newId(), text })) ?? [];
      const all = { team_id: TEAM, list_id: LIST, done: false, notes: '', ...todo, steps };
      const known = Object.entries(all).filter(([name]) => name in fields);
      return create('todo', newId(), Object.fromEntries(known));
    })
  ];
  try {
    await asServer('POST', '/v1/records', { writes });
  } catch (error) {
    if (!(error instanceof ServerError && error.status === 409)) throw error; // another window was faster
  }
}

/** Delete all that is in the team, and found it anew. */
export async function startOver(facts: Facts): Promise<void> {
  const filter = encodeURIComponent(`team_id = "${TEAM}"`);
  for (const model of ['todo', 'todo_list', 'membership']) {
    await empty(model, filter);
  }
  if ('note' in facts.merges) await empty('note', encodeURIComponent('id > "playground-" and id < "playground."'));
  await setUp(facts);
}

async function empty(model: string, filter: string): Promise<void> {
  for (;;) {
    const { records } = await asServer<{ records: { id: string }[] }>(
      'GET',
      `/v1/records/${model}?filter=${filter}&limit=100`
    );
    if (records.length === 0) break;
    await asServer('POST', '/v1/records', { writes: records.map(({ id }) => ({ op: 'delete', model, id })) });
  }
}

/** The membership of `user`, if there is one. */
export function membership(view: View | null, user: string): string | undefined {
  return view?.records.membership?.find((one) => one.data.team_id === TEAM && one.data.user_id === user)?.id;
}

export async function letIn(user: string): Promise<void> {
  await asServer('POST', '/v1/records/membership', { id: newId(), data: { team_id: TEAM, user_id: user } });
}

export async function putOut(view: View | null, user: string): Promise<void> {
  const id = membership(view, user);
  if (id) await asServer('DELETE', `/v1/records/membership/${id}`);
}
