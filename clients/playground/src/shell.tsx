// The page around the phones.

import { render } from 'preact';
import { useEffect, useReducer, useState } from 'preact/hooks';
import { DeviceFrame } from './device';
import { readFacts, type Facts } from './server';
import { ServerView } from './server-view';
import { Stage } from './stage';
import { Stories } from './stories';
import { PHONES, USERS } from './switches';
import { missing } from './team';

function App({ stage }: { stage: Stage }) {
  const [, again] = useReducer((n: number) => n + 1, 0);
  const [shown, setShown] = useState('a');
  useEffect(() => stage.onChange(() => again(0)), []);
  useEffect(() => {
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) if (entry.isIntersecting) setShown(entry.target.id.replace('place-', ''));
      },
      { threshold: 0.6 }
    );
    document.querySelectorAll('.place').forEach((place) => seen.observe(place));
    return () => seen.disconnect();
  }, []);
  return (
    <>
      <header class="top">
        <a class="brand" href="/playground">
          <Mark />
          <b>Lowtide</b> <span>playground</span>
        </a>
        <p class="what">
          Three phones with a database each, and <b>{stage.facts.name}</b>, which keeps them in step.
        </p>
        <button class="quiet" onClick={() => void stage.startOver()}>
          Start over
        </button>
      </header>
      <Stories stage={stage} />
      <nav class="tabs" aria-label="Phones and server">
        {[...PHONES, 'server'].map((place) => (
          <button
            key={place}
            aria-current={shown === place ? 'true' : undefined}
            onClick={() => document.getElementById(`place-${place}`)?.scrollIntoView({ inline: 'start', block: 'nearest' })}
          >
            {place === 'server' ? 'server' : stage.devices[place as 'a'].who.name}
          </button>
        ))}
      </nav>
      <main class="places">
        {PHONES.map((id) => (
          <section class="place" id={`place-${id}`} key={id} aria-label={`Phone of ${stage.devices[id].who.name}`}>
            <DeviceFrame stage={stage} device={stage.devices[id]} />
          </section>
        ))}
        <section class="place server" id="place-server" aria-label="The server">
          <ServerView stage={stage} />
          <Log stage={stage} />
        </section>
      </main>
    </>
  );
}

function Log({ stage }: { stage: Stage }) {
  return (
    <section class="log">
      <h2>What happened</h2>
      <div role="log" aria-live="polite" aria-label="What happened" tabIndex={0}>
      <ol>
        {stage.lines.map((line) => (
          <li key={line.n} class={line.tone}>
            <time>{new Date(line.at).toTimeString().slice(0, 8)}</time> <b class={`who ${tint(line.who)}`}>{line.who}</b> {line.what}
          </li>
        ))}
      </ol>
      </div>
    </section>
  );
}

const tint = (who: string) => ([...USERS, 'server', 'guest'].includes(who) ? who : 'account');

function Mark() {
  return (
    <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
      <rect width="32" height="32" rx="9" class="mark-back" />
      <path d="M5 13c4-4 7-4 11 0s7 4 11 0M5 20c4-4 7-4 11 0s7 4 11 0" class="mark-line" />
    </svg>
  );
}

function Unplayable({ facts, lacks }: { facts: Facts; lacks: string[] }) {
  return (
    <main class="unplayable">
      <h1>{facts.name} is another app</h1>
      <p>
        The playground plays the app that <code>lowtide new</code> writes: to-do lists of a team. {facts.name} does not
        have {lacks.slice(0, 6).join(', ')}
        {lacks.length > 6 && ' and more'}. Its data has not been touched.
      </p>
      <pre>lowtide new play && cd play && lowtide dev</pre>
      <p>
        Its addresses are at <a href="/docs">/docs</a>.
      </p>
    </main>
  );
}

async function start() {
  const facts = await readFacts();
  document.title = `${facts.name}: playground`;
  const lacks = missing(facts);
  render(lacks.length > 0 ? <Unplayable facts={facts} lacks={lacks} /> : <App stage={new Stage(facts)} />, document.body);
}

start().catch((error: Error) => {
  render(
    <main class="unplayable">
      <h1>The playground does not start</h1>
      <p>{error.message}</p>
    </main>,
    document.body
  );
});
