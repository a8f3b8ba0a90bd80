// The server's side of it: rows, journal, refusals, and the number that orders everything.

import { useRef } from 'preact/hooks';
import { asServer, called, writer, type Lost, type Shown, type View } from './server';
import type { Stage } from './stage';
import { TEAM } from './team';

export function ServerView({ stage }: { stage: Stage }) {
  const { view } = stage;
  if (!view) {
    return (
      <div class="server-view">
        <h2>The server</h2>
        <p class="soft">is not answering; the phones go on.</p>
      </div>
    );
  }
  const here = (model: string) => (view.records[model] ?? []).filter((one) => one.data.team_id === TEAM);
  const members = here('membership').map((one) => String(one.data.user_id));
  const notes = view.records.note ?? [];
  const restore = (id: string) =>
    asServer('POST', `/v1/sync/conflicts/${id}/restore`).catch((error: Error) => stage.log('server', error.message, 'bad'));
  return (
    <div class="server-view">
      <div class="heading">
        <h2>The server</h2>
        <p class="head">
          head <b key={view.head}>{view.head}</b>
        </p>
      </div>
      <p class="members">
        {members.sort().map((user) => (
          <span key={user} class={`face ${user in view.people ? 'account' : user}`}>
            {called(view, user)}
          </span>
        ))}
      </p>
      <table>
        <thead>
          <tr>
            <th>to-do</th>
            <th>done</th>
            <th>votes</th>
            <th>labels</th>
          </tr>
        </thead>
        {here('todo').map((one) => (
          <Row key={one.id} one={one} />
        ))}
      </table>
      {notes.length > 0 && (
        <>
          <h3>
            Notes <small>each its user’s alone</small>
          </h3>
          <ul class="journal notes">
            {notes.slice(-8).map(({ id, data }) => (
              <li key={id}>
                <span>{String(data.text)}</span>
                <b class={`face ${view.people[String(data.user_id)] ? 'account' : String(data.user_id)}`}>
                  {called(view, String(data.user_id))}
                </b>
              </li>
            ))}
          </ul>
        </>
      )}
      <h3>
        Journal <small>values that lost a conflict</small>
      </h3>
      {view.conflicts.length === 0 && <p class="soft">Nothing lost yet.</p>}
      <ul class="journal">
        {view.conflicts.slice(0, 6).map((one) => (
          <Journal key={one.id} view={view} one={one} restore={restore} />
        ))}
      </ul>
      <h3>
        Refused <small>and told to the phone</small>
      </h3>
      {view.rejections.length === 0 && <p class="soft">Nothing refused, or all of it understood.</p>}
      <ul class="journal">
        {view.rejections.slice(-4).map((one) => (
          <li key={one.id}>
            <span>
              <b>{called(view, String(one.data.device ?? '').split('/')[0]!)}</b> {String(one.data.op)} {String(one.data.model)}:{' '}
              {String(one.data.message)}
            </span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Row({ one }: { one: Shown }) {
  const { title, done, votes, labels, steps, notes } = one.data;
  const more = [words(steps), notes].filter(Boolean).join(' · ');
  return (
    <tbody>
      <tr>
        <Cell value={title} />
        <Cell value={done ? '✓' : '–'} />
        <Cell value={votes} />
        <Cell value={words(labels)} />
      </tr>
      {more && (
        <tr class="more">
          <Cell value={more} span={4} />
        </tr>
      )}
    </tbody>
  );
}

/** A value, which lights up once when it changes. */
function Cell({ value, span }: { value: unknown; span?: number }) {
  const first = useRef(value);
  const text = value === null || value === undefined ? '' : String(value);
  return (
    <td colSpan={span}>
      <span key={text} class={first.current === value ? '' : 'new'}>
        {text}
      </span>
    </td>
  );
}

function Journal({ view, one, restore }: { view: View; one: Lost; restore: (id: string) => void }) {
  return (
    <li>
      <span>
        <b>{one.field || one.model}</b>: <q>{short(one.lost)}</q> of {writer(view, one.lost_by)} gave way to{' '}
        <q>{short(one.won)}</q> of {writer(view, one.won_by)}
      </span>
      {one.restored_at === null ? (
        <button onClick={() => restore(one.id)} aria-label={`Restore ${short(one.lost)}`}>
          Restore
        </button>
      ) : (
        <em>restored</em>
      )}
    </li>
  );
}

function words(value: unknown): string {
  const list: unknown[] = typeof value === 'string' ? JSON.parse(value) : Array.isArray(value) ? value : [];
  return list.map((one) => (typeof one === 'string' ? one : ((one as { text?: string })?.text ?? ''))).join(', ');
}

const short = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 40);
