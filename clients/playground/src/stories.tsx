// Short stories that play on the stage, a step at a time.

import { useState } from 'preact/hooks';
import { GUEST } from './guest-story';
import { air, calm, settled, todo, type Step, type Story } from './plot';
import type { Stage } from './stage';
import { letIn, membership, putOut } from './team';

/** What Ann and Ben write: other titles than the one that is there, whatever was played before. */
let titles: [string, string] = ['', ''];

const FIELD: Story = {
  name: 'One field, two edits',
  first: 'Ann and Ben lose their network, and both rename the same to-do. What becomes of the one who loses?',
  steps: [
    {
      press: 'Take both networks away',
      look: 'a',
      then: 'The app did not notice: it reads and writes SQLite on the phone.',
      play: async (stage) => {
        await calm(stage);
        air('a', true);
        air('b', true);
        await stage.until(() => !stage.devices.a.connected && !stage.devices.b.connected, 'both to be offline');
      }
    },
    {
      press: 'Rename it on both',
      look: 'b',
      then: 'Each phone shows its own title. The changes wait, with the time they were made and what they replaced.',
      play: async (stage) => {
        const [ann, first] = await todo(stage, 'a');
        const other = (title: string, instead: string) => (first.title === title ? instead : title);
        titles = [other('Firewood, dry', 'Firewood, split'), other('Charcoal instead', 'Briquettes instead')];
        await ann.todos.change(first.id, { title: titles[0] });
        await new Promise((resolve) => setTimeout(resolve, 700)); // so that one is later than the other
        const [ben] = await todo(stage, 'b');
        await ben.todos.change(first.id, { title: titles[1] });
        await stage.until(() => stage.devices.a.waiting > 0 && stage.devices.b.waiting > 0, 'both to wait');
      }
    },
    {
      press: 'Give the networks back',
      look: 'a',
      then: 'Ben wrote later, so his title stands everywhere. Ann’s is in the journal, and her phone tells her.',
      play: async (stage) => {
        air('b', false);
        await settled(stage, ['b'], (one) => one.title === titles[1]);
        air('a', false);
        await settled(stage, ['a', 'b', 'c'], (one) => one.title === titles[1]);
        const ann = await stage.phone('a');
        await stage.until(() => ann.todos.screen.lost.some((one) => one.lost === titles[0]), 'the journal');
      }
    },
    {
      press: 'Put Ann’s back',
      look: 'c',
      then: 'One press, and hers stands on every phone. Nothing was lost at any time.',
      play: async (stage) => {
        const [ann] = await todo(stage, 'a');
        const lost = ann.todos.screen.lost.find((one) => one.lost === titles[0]);
        if (lost) await ann.todos.restore(lost);
        await settled(stage, ['a', 'b', 'c'], (one) => one.title === titles[0]);
      }
    }
  ]
};

let votes = 0;

const COUNTERS: Story = {
  name: 'Two counters',
  first: 'Votes are a counter, labels a set. Two people who change them at once are not in conflict.',
  steps: [
    {
      press: 'Vote on both, offline',
      look: 'a',
      then: 'Ann voted three times and Ben twice, neither knowing of the other. Both added a label, too.',
      play: async (stage) => {
        await calm(stage);
        air('a', true);
        air('b', true);
        const [ann, first] = await todo(stage, 'a');
        const [ben] = await todo(stage, 'b');
        votes = first.votes;
        for (let i = 0; i < 3; i++) await ann.todos.vote(first.id);
        for (let i = 0; i < 2; i++) await ben.todos.vote(first.id);
        await ann.todos.label(first.id, 'dry', true);
        await ben.todos.label(first.id, 'borrow', true);
        await stage.until(() => stage.devices.a.waiting >= 3 && stage.devices.b.waiting >= 2, 'both to wait');
      }
    },
    {
      press: 'Give Ben his network, lose the answer',
      look: 'b',
      then: 'His votes reached the server, and he did not hear of it: he sends them again. They count once.',
      play: async (stage) => {
        const ben = await stage.phone('b');
        ben.loseAnswer();
        air('b', false);
        const { sent } = stage.devices.b;
        await stage.until(
          () => stage.devices.b.sent.some((one) => one.fate === 'answer lost' && !sent.includes(one)),
          'the answer to get lost'
        );
        await settled(stage, ['b'], (one) => one.votes === votes + 2);
      }
    },
    {
      press: 'Give Ann hers',
      look: 'c',
      then: 'Three and two are five more than before, on every phone. Both labels are there.',
      play: async (stage) => {
        air('a', false);
        await settled(stage, ['a', 'b', 'c'], (one) => one.votes === votes + 5);
      }
    }
  ]
};

const REFUSED: Story = {
  name: 'A refused write',
  first: 'Only who founded the team lets people in. Ben tries, without a network.',
  steps: [
    {
      press: 'Ben lets dora in, offline',
      look: 'b',
      then: 'His phone shows her at once: it cannot know better. He votes once more, behind it in the queue.',
      play: async (stage) => {
        await calm(stage);
        air('b', true);
        const [ben, first] = await todo(stage, 'b');
        votes = first.votes;
        await ben.todos.invite('dora');
        await ben.todos.vote(first.id);
        await stage.until(() => stage.devices.b.waiting >= 2, 'both to wait');
      }
    },
    {
      press: 'Give him his network back',
      look: 'b',
      then: 'The server says no, and why. Dora is gone from his phone; his vote behind her is everywhere.',
      play: async (stage) => {
        air('b', false);
        const ben = await stage.phone('b');
        await settled(stage, ['a', 'b', 'c'], (one) => one.votes === votes + 1);
        await stage.until(() => ben.todos.screen.refusals.length > 0, 'the refusal');
      }
    },
    {
      press: 'He understands',
      look: 'b',
      then: 'A refusal is a row like any other: the app shows it, and deletes it when it is settled.',
      play: async (stage) => {
        const ben = await stage.phone('b');
        for (const one of ben.todos.screen.refusals) await ben.todos.dismiss(one.id);
        const left = () => stage.view?.rejections.some((one) => String(one.data.device).startsWith('ben/'));
        await stage.until(() => left() === false && stage.devices.b.waiting === 0, 'the row to go');
      }
    }
  ]
};

const REVOKED: Story = {
  name: 'Revocation',
  first: 'Cleo leaves the team while her phone is in airplane mode.',
  steps: [
    {
      press: 'Take her out of the team',
      look: 'c',
      then: 'She is out, and her phone has not heard of it: it still holds what it held, and takes her vote.',
      play: async (stage) => {
        await calm(stage);
        air('c', true);
        await stage.until(() => !stage.devices.c.connected, 'her to be offline');
        const [cleo, first] = await todo(stage, 'c');
        await putOut(stage.view, 'cleo');
        await stage.until(() => !membership(stage.view, 'cleo'), 'her to be out');
        await cleo.todos.vote(first.id);
        await stage.until(() => stage.devices.c.waiting > 0, 'her vote to wait');
      }
    },
    {
      press: 'Give her the network back',
      look: 'c',
      then: 'Her vote is refused, and with the next checkpoint the rows leave her database. Nothing of the team is left.',
      play: async (stage) => {
        air('c', false);
        const cleo = await stage.phone('c');
        await stage.until(() => cleo.todos.screen.list === null && stage.devices.c.waiting === 0, 'the rows to go');
      }
    },
    {
      press: 'Let her in again',
      look: 'c',
      then: 'The rows are there again: she receives what the team has now.',
      play: async (stage) => {
        await letIn('cleo');
        const cleo = await stage.phone('c');
        await stage.until(() => cleo.todos.screen.todos.length > 0, 'the rows');
        for (const one of cleo.todos.screen.refusals) await cleo.todos.dismiss(one.id);
      }
    }
  ]
};

const STORIES = [FIELD, COUNTERS, REFUSED, REVOKED, GUEST];

/** On a small screen one place is shown at a time. */
function show(place: string): void {
  const small = getComputedStyle(document.querySelector('.tabs')!).display !== 'none';
  if (small) document.getElementById(`place-${place}`)?.scrollIntoView({ inline: 'start', block: 'nearest' });
}

export function Stories({ stage }: { stage: Stage }) {
  const [at, setAt] = useState<{ story: number; step: number } | null>(null);
  const [playing, setPlaying] = useState(false);
  const [failure, setFailure] = useState('');
  const story = at && STORIES[at.story]!;
  const next = story?.steps[at!.step];
  const begin = (n: number) => {
    if (playing) return;
    setFailure('');
    setAt({ story: n, step: 0 });
  };
  const play = async (step: Step) => {
    setPlaying(true);
    setFailure('');
    show(step.look);
    try {
      await step.play(stage);
      setAt({ ...at!, step: at!.step + 1 });
    } catch (error) {
      setFailure((error as Error).message);
    }
    setPlaying(false);
  };
  const press = () => {
    if (playing) return;
    if (next) void play(next);
    else begin(story ? (at!.story + 1) % STORIES.length : 0);
  };
  const last = at?.story === STORIES.length - 1;
  const word = playing ? 'Wait …' : failure ? 'Try again' : (next?.press ?? (story ? (last ? 'Once more' : 'Next story') : 'Begin'));
  const said = story && (at!.step === 0 ? story.first : story.steps[at!.step - 1]!.then);
  return (
    <section class="stories" aria-label="Guided tour">
      <ol class="chapters">
        {STORIES.map((one, n) => (
          <li key={one.name} ref={(item) => void (at?.story === n && item?.scrollIntoView({ inline: 'center', block: 'nearest' }))}>
            <button aria-current={at?.story === n ? 'step' : undefined} aria-disabled={playing} onClick={() => begin(n)}>
              <i>{n + 1}</i> {one.name}
            </button>
          </li>
        ))}
      </ol>
      <div class="telling">
        <p aria-live="polite">
          {failure || said || 'Five stories of half a minute each. Or play: everything on the phones is real.'}
        </p>
        <button class="press" aria-disabled={playing} onClick={press}>
          {word}
        </button>
        {story && (
          <span class="dots" aria-hidden="true">
            {story.steps.map((step, n) => (
              <i key={step.press} class={n < at!.step ? 'done' : ''} />
            ))}
          </span>
        )}
      </div>
    </section>
  );
}
