// A phone on the page: its screen in a frame, the switches of its network, clock and user, and its wire.

import type { Sent } from './network';
import type { Device, Stage } from './stage';
import { ACCOUNT, setSwitches, USERS } from './switches';
import { letIn, membership, putOut } from './team';

const HOUR = 3600_000;
const CLOCKS: [string, number][] = [
  ['right', 0],
  ['3 hours ahead', 3 * HOUR],
  ['3 hours behind', -3 * HOUR],
  ['a year ahead', 365 * 24 * HOUR]
];

export function DeviceFrame({ stage, device }: { stage: Stage; device: Device }) {
  const { id, switches } = device;
  const { who } = device;
  const held = membership(stage.view, who.id);
  const toggle = (name: 'airplane' | 'train' | 'basement', word: string, path: string) => (
    <button
      class="switch"
      aria-pressed={switches[name]}
      onClick={() => setSwitches(id, { [name]: !switches[name] })}
    >
      <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
        <path d={path} />
      </svg>
      {word}
    </button>
  );
  return (
    <>
      <div class={`device ${switches.airplane ? 'off' : ''}`} data-phone={id}>
        <div class="bar">
          <b class={`face ${who.kind === 'token' ? who.id : who.kind}`}>{who.kind === 'nobody' ? '–' : who.name[0]}</b>
          <span class="name">{who.name}’s phone</span>
          <span class={`signal ${device.connected ? 'on' : ''}`} aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
        </div>
        <iframe title={`${who.name}’s phone`} src={`/playground/phone/${id}`} />
      </div>
      <Wire sent={device.sent} waiting={device.waiting} />
      <div class="switches" role="group" aria-label={`Switches of ${who.name}’s phone`}>
        {toggle('airplane', 'Airplane', 'M21 15v-2l-8-5V4a1.5 1.5 0 0 0-3 0v4l-8 5v2l8-2.5V17l-2 1.5V20l3.5-1 3.5 1v-1.5L13 17v-4.500z')}
        {toggle('train', 'Slow train', 'M7 3h10a3 3 0 0 1 3 3v8a3 3 0 0 1-3 3l2 3h-2l-2-3H9l-2 3H5l2-3a3 3 0 0 1-3-3V6a3 3 0 0 1 3-3zm-1 4v4h12V7zm2 7.500h1.500M14.500 14.500H16')}
        {toggle('basement', 'Basement', 'M3 4h6v5h5v5h5v6M3 20h18M14 4l6 6M20 4l-6 6')}
        <button
          class="switch"
          aria-pressed={held === undefined}
          disabled={!stage.view || !who.id}
          onClick={() =>
            (held ? putOut(stage.view, who.id) : letIn(who.id)).catch((error: Error) => stage.log('server', error.message, 'bad'))
          }
        >
          <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
            <path d="M12 3a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4 20c0-4 3.500-6 8-6s8 2 8 6M16 8l6 6M22 8l-6 6" />
          </svg>
          {held === undefined ? 'Not in team' : 'Revoke'}
        </button>
        <label>
          <span>Clock</span>
          <select value={String(switches.ahead)} onChange={(event) => setSwitches(id, { ahead: Number(event.currentTarget.value) })}>
            {CLOCKS.map(([word, ahead]) => (
              <option key={ahead} value={String(ahead)}>
                {word}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>User</span>
          <select value={switches.user} onChange={(event) => setSwitches(id, { user: event.currentTarget.value })}>
            {USERS.map((one) => (
              <option key={one}>{one}</option>
            ))}
            <option value={ACCOUNT}>{switches.user === ACCOUNT ? who.name : 'guest …'}</option>
          </select>
        </label>
      </div>
    </>
  );
}

function Wire({ sent, waiting }: { sent: Sent[]; waiting: number }) {
  // What the app asks besides its sync is of interest when it fails.
  const shown = sent.filter((one) => tone(one) !== 'good' || !one.path.includes('conflicts'));
  return (
    <div class="wire">
      <p>
        <span>wire</span>
        <b class={waiting > 0 ? 'some' : ''}>{waiting} to send</b>
      </p>
      <ol aria-hidden="true">
        {shown.slice(0, 2).map((one) => (
          <li key={`${one.at}${one.path}`} class={tone(one)}>
            <code>{words(one.path)}</code>
            <span>{one.fate === 'answered' && one.status >= 400 ? `answered ${one.status}` : one.fate ?? (one.bytes > 0 ? `open, ${size(one.bytes)}` : 'under way')}</span>
          </li>
        ))}
        {shown.length === 0 && <li>nothing yet</li>}
      </ol>
    </div>
  );
}

function tone({ fate, status }: Sent): string {
  if (fate === null) return 'open';
  return fate === 'answered' && status < 400 ? 'good' : fate === 'stopped' ? '' : 'bad';
}

function words(path: string): string {
  if (path === '/sync/stream') return '↓ download';
  if (path === '/v1/sync/batches') return '↑ changes';
  if (path.startsWith('/v1/sync/conflicts')) return '↓ conflicts';
  if (path === '/playground/token' || path.endsWith('/token/refresh')) return '↓ token';
  if (path.startsWith('/v1/auth/')) return '↑ account';
  return '↓ checkpoint';
}

const size = (bytes: number) => (bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(1)} kB`);
