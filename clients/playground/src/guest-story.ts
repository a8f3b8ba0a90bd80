// The story of a guest who has an account: what they wrote comes along, and a sign-out leaves nothing behind.

import type { PhoneHandle } from './phone';
import { air, type Story } from './plot';
import type { Shown } from './server';
import type { Stage } from './stage';
import { ACCOUNT, setSwitches, type PhoneId } from './switches';

const EMMA = 'emma@example.com';
const NOTES = ['Passport', 'Sunscreen', 'Torch'];

/** The phone with a good network, in the hands of whoever is signed in. */
async function account(stage: Stage, id: PhoneId): Promise<PhoneHandle> {
  setSwitches(id, { user: ACCOUNT, airplane: false, train: false, basement: false, ahead: 0 });
  const phone = await stage.phone(id);
  phone.loseUploads(false);
  await phone.holder.begun;
  return phone;
}

async function out({ holder }: PhoneHandle): Promise<void> {
  if (holder.left) await holder.leave();
  if (holder.who.kind !== 'nobody') await holder.signOut(true);
}

async function signIn({ holder }: PhoneHandle): Promise<void> {
  const { flow, code } = await holder.ask(EMMA);
  await holder.enter(flow, await code);
}

const texts = ({ todos }: PhoneHandle) => todos.screen.notes.map((note) => note.text);
const sent = (stage: Stage, id: PhoneId) => stage.devices[id].connected && stage.devices[id].waiting === 0;

/** Write a note with a network, and wait until the server has it. */
async function keep(stage: Stage, { id, todos, holder }: PhoneHandle, text: string): Promise<void> {
  await todos.addNote(text);
  const own = ({ data }: Shown) => data.text === text && data.user_id === holder.who.id;
  await stage.until(() => stage.view?.records.note?.some(own) === true && sent(stage, id), 'the note to be sent');
}

export const GUEST: Story = {
  name: 'A guest signs in',
  first: 'Emma has an account. On another phone she begins as a guest, and her network goes.',
  steps: [
    {
      press: 'Emma signs in',
      look: 'a',
      then: 'The code came by mail: here, from the outbox. Her note is hers alone, and on no other phone.',
      play: async (stage) => {
        const phone = await account(stage, 'a');
        if (phone.holder.who.email !== EMMA || phone.holder.left) {
          await out(phone);
          await signIn(phone);
        }
        await stage.until(() => sent(stage, 'a'), 'her to be connected');
        await phone.todos.db.waitForFirstSync();
        for (const { id, text } of phone.todos.screen.notes) if (NOTES.includes(text)) await phone.todos.removeNote(id);
        await keep(stage, phone, NOTES[0]!);
      }
    },
    {
      press: 'A guest writes, and goes offline',
      look: 'b',
      then: 'One note of the guest is on the server. The other waits on the phone.',
      play: async (stage) => {
        const phone = await account(stage, 'b');
        await out(phone);
        await phone.holder.beGuest();
        await stage.until(() => sent(stage, 'b'), 'the guest to be connected');
        await keep(stage, phone, NOTES[1]!);
        air('b', true);
        await stage.until(() => !stage.devices.b.connected, 'the network to go');
        await phone.todos.addNote(NOTES[2]!);
        await stage.until(() => stage.devices.b.waiting > 0, 'the note to wait');
      }
    },
    {
      press: 'The guest signs in as Emma',
      look: 'b',
      then: 'Emma has an account already, so the phone asks. Until it is answered, nothing is sent.',
      play: async (stage) => {
        const phone = await stage.phone('b');
        phone.loseUploads(true); // so that she is faster than her queue
        air('b', false);
        await stage.until(() => stage.devices.b.connected, 'the network');
        await signIn(phone);
        phone.loseUploads(false);
        await stage.until(() => phone.holder.left, 'the question');
      }
    },
    {
      press: 'Bring it along',
      look: 'a',
      then: 'All of it is Emma’s, on both phones: what was sent, and what still waited. The guest is gone.',
      play: async (stage) => {
        const phones = [await stage.phone('a'), await stage.phone('b')];
        await phones[1]!.holder.bring();
        const all = (phone: PhoneHandle) => NOTES.every((text) => texts(phone).includes(text));
        await stage.until(() => phones.every(all) && sent(stage, 'b'), 'the notes on both phones');
      }
    },
    {
      press: 'Sign out, with a change unsent',
      look: 'b',
      then: 'In airplane mode again, she wrote something and wants to sign out. The phone does not do it unasked.',
      play: async (stage) => {
        const phone = await stage.phone('b');
        air('b', true);
        await stage.until(() => !stage.devices.b.connected, 'the network to go');
        await phone.todos.addNote('Matches');
        await stage.until(() => stage.devices.b.waiting > 0, 'the note to wait');
        await stage.until(() => phone.press('Sign out'), 'the button');
        await stage.until(() => phone.press('Throw away and sign out', false), 'the question');
      }
    },
    {
      press: 'Throw it away',
      look: 'b',
      then: 'Nothing of Emma is left on this phone: whoever is next begins with an empty database.',
      play: async (stage) => {
        const phone = await stage.phone('b');
        await stage.until(() => phone.press('Throw away and sign out'), 'the button');
        await stage.until(() => phone.holder.who.kind === 'nobody' && texts(phone).length === 0, 'the phone to be empty');
        air('b', false);
      }
    }
  ]
};
