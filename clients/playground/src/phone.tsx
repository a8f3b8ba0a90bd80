// What is on a phone's screen: the starter app's lists and to-dos, read from and written to the phone's own SQLite.

import { render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Account } from './account';
import { Phone, type Report } from './database';
import type { Holder, Who } from './holder';
import type { Sent } from './network';
import { failures } from './opening';
import { readFacts, type Facts, type Lost } from './server';
import { PHONES, USERS, type PhoneId } from './switches';
import { Todos, type Member, type Note, type Refusal, type Todo } from './todos';

const MOST_SENT = 200; // requests that are remembered
const SLOW = 4_000; // milliseconds after which a phone says that it is still starting

/** What the page around the phone may ask of it. */
export interface PhoneHandle {
  id: PhoneId;
  todos: Todos;
  holder: Holder;
  report(): Promise<Report | null>;
  /** What went over the network, the oldest first. */
  sent(): readonly Sent[];
  /** The answer to the next upload gets lost. */
  loseAnswer(): void;
  /** Uploads get lost until further notice. */
  loseUploads(lost: boolean): void;
  /** Press the button that says `word`, as a finger does, or only look for it. Whether it is there. */
  press(word: string, really?: boolean): boolean;
  close(): Promise<void>;
}

/** What the phone tells the page around it, as `detail` of the event `phone`. */
export type PhoneNews =
  | { kind: 'ready'; handle: PhoneHandle }
  | { kind: 'who'; phone: PhoneId; who: Who }
  | { kind: 'sent'; phone: PhoneId; sent: Sent }
  | { kind: 'report'; phone: PhoneId; report: Report }
  | { kind: 'refused'; phone: PhoneId; refusals: Refusal[] };

const tell = (news: PhoneNews) => {
  if (parent !== window) parent.dispatchEvent(new CustomEvent('phone', { detail: news }));
};

function App({ phone, todos, facts }: { phone: Phone; todos: Todos; facts: Facts }) {
  const [screen, setScreen] = useState(todos.screen);
  const [report, setReport] = useState<Report | null>(null);
  const { holder } = phone;
  const [who, setWho] = useState(holder.who);
  const again = () => {
    const now = holder.who;
    setWho(now);
    tell({ kind: 'who', phone: phone.id, who: now });
    document.title = `${now.name}’s phone`;
    void todos.look();
  };
  useEffect(() => {
    const look = async () => {
      const now = await phone.report();
      if (!now) return;
      setReport(now);
      tell({ kind: 'report', phone: phone.id, report: now });
    };
    const stops = [
      todos.onScreen((now) => {
        setScreen(now);
        tell({ kind: 'refused', phone: phone.id, refusals: now.refusals });
        void look();
      }),
      phone.db.registerListener({ statusChanged: () => void look() }),
      holder.onChange(again)
    ];
    again();
    void look();
    return () => stops.forEach((stop) => stop());
  }, []);
  const inTeam = screen.list !== null;
  const nobody = who.kind === 'nobody';
  const notes = todos.keepsNotes && !nobody;
  return (
    <>
      <header>
        <h1>{screen.list?.title ?? (notes ? 'Notes' : 'To do')}</h1>
        {!nobody && <State report={report} airplane={phone.switches.airplane} />}
      </header>
      {who.kind !== 'token' && <Account holder={holder} who={who} again={again} />}
      <main>
        {screen.refusals.map((refusal) => (
          <Refused key={refusal.id} refusal={refusal} todos={todos} />
        ))}
        {screen.lost.map((lost) => (
          <Lost_ key={lost.id} lost={lost} todos={todos} />
        ))}
        {who.kind === 'token' && !inTeam && report?.hasSynced && (
          <p class="nothing">
            <b>{who.name} is in no team.</b>
            <br />
            So nothing of a team is on this phone, or in its database.
          </p>
        )}
        {!nobody && !inTeam && !report?.hasSynced && screen.notes.length === 0 && (
          <p class="nothing">Waiting for the first sync …</p>
        )}
        <ul class="todos">
          {screen.todos.map((todo) => (
            <Row key={todo.id} todo={todo} todos={todos} merges={facts.merges.todo ?? {}} />
          ))}
        </ul>
        {inTeam && <Add todos={todos} />}
        {notes && <Notes notes={screen.notes} todos={todos} titled={inTeam} />}
      </main>
      {inTeam && <Members members={screen.members} todos={todos} who={who} />}
    </>
  );
}

function State({ report, airplane }: { report: Report | null; airplane: boolean }) {
  const waiting = report?.waiting ?? 0;
  const kind = airplane || !report?.connected ? 'away' : 'live';
  const word = airplane ? 'airplane mode' : report?.connected ? 'live' : 'no connection';
  return (
    <p class={`state ${kind}`} data-waiting={waiting} data-connected={String(report?.connected ?? false)}>
      <i />
      {word}
      {waiting > 0 && <b>{waiting} to send</b>}
    </p>
  );
}

function Row({ todo, todos, merges }: { todo: Todo; todos: Todos; merges: Record<string, string> }) {
  const [open, setOpen] = useState(false);
  return (
    <li class={todo.done ? 'todo done' : 'todo'} data-id={todo.id}>
      <div class="line">
        {'done' in merges && (
          <input
            type="checkbox"
            checked={todo.done}
            aria-label={`${todo.title}: done`}
            onChange={(event) => todos.change(todo.id, { done: Number(event.currentTarget.checked) })}
          />
        )}
        <Field
          label="Title"
          class="title"
          value={todo.title}
          save={(title) => todos.change(todo.id, { title })}
        />
        {merges.votes === 'counter' && (
          <button class="votes" aria-label={`Vote for ${todo.title}: ${todo.votes} now`} onClick={() => todos.vote(todo.id)}>
            ▲ <span>{todo.votes}</span>
          </button>
        )}
        <button class="more" aria-expanded={open} aria-label={`More of ${todo.title}`} onClick={() => setOpen(!open)}>
          <i />
        </button>
      </div>
      {merges.labels === 'set' && <Labels todo={todo} todos={todos} />}
      {open && (
        <div class="inside">
          {merges.steps === 'list' && <Steps todo={todo} todos={todos} />}
          {'notes' in merges && (
            <Field
              label="Notes"
              class="notes"
              long
              value={todo.notes}
              save={(notes) => todos.change(todo.id, { notes })}
            />
          )}
          <button class="plain" onClick={() => todos.remove(todo.id)}>
            Delete this to-do
          </button>
        </div>
      )}
    </li>
  );
}

/** A text that is saved when the writer pauses, and follows the database while nobody writes. */
function Field(props: { label: string; class: string; value: string; save: (text: string) => void; long?: boolean }) {
  const [draft, setDraft] = useState<string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const save = (text: string | null) => {
    clearTimeout(timer.current);
    if (text !== null && text !== props.value) props.save(text);
    setDraft(null);
  };
  const shared = {
    class: props.class,
    'aria-label': props.label,
    value: draft ?? props.value,
    onInput: (event: { currentTarget: { value: string } }) => {
      const text = event.currentTarget.value;
      setDraft(text);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => save(text), props.long ? 500 : 1200);
    },
    onBlur: () => save(draft)
  };
  if (props.long) return <textarea rows={3} placeholder="Notes" {...shared} />;
  return <input {...shared} onKeyDown={(event) => event.key === 'Enter' && save(draft)} />;
}

function Labels({ todo, todos }: { todo: Todo; todos: Todos }) {
  const [adding, setAdding] = useState(false);
  const add = (text: string) => {
    setAdding(false);
    if (text.trim()) todos.label(todo.id, text.trim(), true);
  };
  return (
    <p class="labels">
      {todo.labels.map((label) => (
        <button key={label} class="label" aria-label={`Remove the label ${label}`} onClick={() => todos.label(todo.id, label, false)}>
          {label}
        </button>
      ))}
      {adding ? (
        <input
          class="new-label"
          aria-label="New label"
          ref={(input) => input?.focus()}
          onBlur={(event) => add(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === 'Enter') add(event.currentTarget.value);
            if (event.key === 'Escape') setAdding(false);
          }}
        />
      ) : (
        <button class="add-label" aria-label={`Add a label to ${todo.title}`} onClick={() => setAdding(true)}>
          + label
        </button>
      )}
    </p>
  );
}

function Steps({ todo, todos }: { todo: Todo; todos: Todos }) {
  return (
    <ol class="steps">
      {todo.steps.map((step, at) => (
        <li key={step.id}>
          <span>{step.text}</span>
          <button aria-label={`Move ${step.text} up`} disabled={at === 0} onClick={() => todos.moveStep(todo.id, step.id)}>
            ↑
          </button>
          <button aria-label={`Remove ${step.text}`} onClick={() => todos.removeStep(todo.id, step.id)}>
            ×
          </button>
        </li>
      ))}
      <li class="new">
        <NewText label="New step" save={(text) => todos.addStep(todo.id, text)} />
      </li>
    </ol>
  );
}

function NewText({ label, save }: { label: string; save: (text: string) => void }) {
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const input = event.currentTarget.querySelector('input')!;
        if (input.value.trim()) save(input.value.trim());
        input.value = '';
      }}
    >
      <input placeholder={`${label} …`} aria-label={label} />
      <button aria-label={`Add: ${label}`}>+</button>
    </form>
  );
}

function Add({ todos }: { todos: Todos }) {
  return (
    <div class="add">
      <NewText label="New to-do" save={(title) => todos.add(title)} />
    </div>
  );
}

function Notes({ notes, todos, titled }: { notes: Note[]; todos: Todos; titled: boolean }) {
  return (
    <section class="own" aria-label="Notes">
      {titled && <h2>Notes</h2>}
      <p class="hint">Only your own phones have them.</p>
      <ul>
        {notes.map((note) => (
          <li key={note.id} data-user={note.user}>
            <span>{note.text}</span>
            <button aria-label={`Delete the note ${note.text}`} onClick={() => todos.removeNote(note.id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
      <div class="add">
        <NewText label="New note" save={(text) => todos.addNote(text)} />
      </div>
    </section>
  );
}

function Refused({ refusal, todos }: { refusal: Refusal; todos: Todos }) {
  return (
    <section class="card refused" aria-label="Refused">
      <h2>Refused by the server</h2>
      <p>{refusal.message}</p>
      <p class="content">{refusal.content}</p>
      <button onClick={() => todos.dismiss(refusal.id)}>Understood</button>
    </section>
  );
}

function Lost_({ lost, todos }: { lost: Lost; todos: Todos }) {
  return (
    <section class="card lost" aria-label="Lost a conflict">
      <h2>Another phone was later</h2>
      <p>
        Your {lost.field || 'record'} <q>{text(lost.lost)}</q> gave way to <q>{text(lost.won)}</q>.
      </p>
      <button onClick={() => todos.restore(lost)}>Put mine back</button>
      <button class="plain" onClick={() => todos.leave(lost)}>
        Leave it
      </button>
    </section>
  );
}

function Members({ members, todos, who }: { members: Member[]; todos: Todos; who: Who }) {
  const named = (user: string) => (USERS.includes(user) ? user : user === who.id ? who.name : 'somebody');
  const dora = members.some((one) => one.user === 'dora');
  return (
    <footer aria-label="Members">
      {members.map((one) => (
        <span key={one.id} class={`face ${one.user === who.id && who.kind !== 'token' ? who.kind : one.user}`} title={one.user}>
          {named(one.user)}
        </span>
      ))}
      {!dora && (
        <button class="invite" onClick={() => todos.invite('dora')}>
          + dora
        </button>
      )}
    </footer>
  );
}

const text = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));

function Slow({ anew }: { anew: boolean }) {
  return (
    <p class="nothing" role="status">
      <b>This phone is opening its database.</b>
      <br />
      {anew ? 'It did not open in time, so it opens anew.' : 'It takes longer than usual.'}
    </p>
  );
}

async function start() {
  const id = PHONES.find((one) => location.pathname.endsWith(`/${one}`))!;
  const sent: Sent[] = [];
  const facts = await readFacts();
  const phone = new Phone(id, facts, (one) => {
    if (one.fate) sent.push(one);
    if (sent.length > MOST_SENT) sent.shift();
    tell({ kind: 'sent', phone: id, sent: one });
  });
  const slow = setTimeout(() => render(<Slow anew={failures(id) > 0} />, document.body), failures(id) > 0 ? 0 : SLOW);
  await phone.open().finally(() => clearTimeout(slow));
  const todos = new Todos(phone.db, phone.lowtide, phone.holder);
  await todos.start();
  render(<App phone={phone} todos={todos} facts={facts} />, document.body);
  const handle: PhoneHandle = {
    id,
    todos,
    holder: phone.holder,
    report: () => phone.report(),
    sent: () => sent,
    loseAnswer: () => (phone.network.loseAnswer = true),
    loseUploads: (lost) => (phone.network.loseUploads = lost),
    press: (word, really = true) => {
      const buttons = [...document.querySelectorAll('button')];
      const found = buttons.find((one) => one.textContent?.trim() === word && !one.disabled);
      if (really) found?.click();
      return found !== undefined;
    },
    close: () => {
      todos.stop();
      return phone.close();
    }
  };
  Object.assign(window, { phone: handle });
  tell({ kind: 'ready', handle });
}

start().catch((error: unknown) => {
  const why = isSecureContext
    ? String(error instanceof Error ? error.message : error)
    : 'A browser gives storage to pages of this machine and of https only. Open the playground at 127.0.0.1.';
  render(
    <p class="nothing">
      <b>This phone does not start.</b>
      <br />
      {why}
    </p>,
    document.body
  );
});
