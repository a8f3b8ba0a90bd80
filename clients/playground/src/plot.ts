// What stories are made of: steps, and what every one of them needs.

import type { PhoneHandle } from './phone';
import type { Stage } from './stage';
import { setSwitches, type PhoneId } from './switches';
import { letIn, membership, putOut } from './team';
import type { Todo } from './todos';

export interface Step {
  /** What the button says. */
  press: string;
  /** What is to be seen afterwards. */
  then: string;
  /** Where to look, if there is room for one phone only. */
  look: PhoneId | 'server';
  play: (stage: Stage) => Promise<void>;
}

export interface Story {
  name: string;
  first: string;
  steps: Step[];
}

export const air = (phone: PhoneId, airplane: boolean) => setSwitches(phone, { airplane });

/** Ann, Ben and Cleo in the team, on phones that have a network and nothing to send. */
export async function calm(stage: Stage): Promise<void> {
  for (const [phone, user] of [['a', 'ann'], ['b', 'ben'], ['c', 'cleo']] as const) {
    setSwitches(phone, { user, airplane: false, train: false, basement: false, ahead: 0 });
    if (!membership(stage.view, user)) await letIn(user);
  }
  await putOut(stage.view, 'dora');
  await stage.until(() => Object.values(stage.devices).every((one) => one.connected && one.waiting === 0), 'calm');
  for (const phone of ['a', 'b', 'c'] as const) await todo(stage, phone);
}

/** The first to-do on a phone. */
export async function todo(stage: Stage, phone: PhoneId): Promise<[PhoneHandle, Todo]> {
  const handle = await stage.phone(phone);
  await stage.until(() => handle.todos.screen.todos.length > 0, 'a to-do');
  return [handle, handle.todos.screen.todos[0]!];
}

export async function settled(stage: Stage, phones: PhoneId[], holds: (todo: Todo) => boolean): Promise<void> {
  const handles = await Promise.all(phones.map((phone) => stage.phone(phone)));
  await stage.until(
    () => handles.every(({ id, todos }) => stage.devices[id].waiting === 0 && !!todos.screen.todos[0] && holds(todos.screen.todos[0])),
    'the phones to agree'
  );
}
