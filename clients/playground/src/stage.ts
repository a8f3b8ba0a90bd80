// What is on the stage: three phones, the server's view, and a log of what happened. The page shows it, and the
// stories play on it.

import { databaseName, sessionName } from './files';
import type { Who } from './holder';
import type { Sent } from './network';
import type { PhoneHandle, PhoneNews } from './phone';
import { called, followServer, writer, type Facts, type View } from './server';
import { ACCOUNT, onSwitches, PHONES, readSwitches, resetSwitches, USERS, type PhoneId, type Switches } from './switches';
import { isSet, setUp, startOver } from './team';

const MOST_LINES = 60;
const PATIENCE = 60_000; // milliseconds that a story waits for what should happen

export interface Line {
  n: number;
  at: number;
  who: string;
  what: string;
  tone: 'plain' | 'good' | 'bad';
}

export interface Device {
  id: PhoneId;
  switches: Switches;
  who: Who;
  handle: PhoneHandle | null;
  connected: boolean;
  waiting: number;
  refused: number;
  /** The latest requests, newest first. */
  sent: Sent[];
}

export class Stage {
  view: View | null = null;
  lines: Line[] = [];
  readonly devices = Object.fromEntries(
    PHONES.map((id) => [
      id,
      { id, switches: readSwitches(id), who: expected(readSwitches(id)), handle: null, connected: false, waiting: 0, refused: 0, sent: [] }
    ])
  ) as unknown as Record<PhoneId, Device>;
  private readonly hearers = new Set<() => void>();
  private settingUp = false;
  private count = 0;

  constructor(readonly facts: Facts) {
    addEventListener('phone', (event) => this.heard((event as CustomEvent<PhoneNews>).detail));
    onSwitches((phone, now) => {
      const device = this.devices[phone];
      if (now.user !== device.switches.user) {
        // The phone starts anew, with another database.
        Object.assign(device, { who: expected(now), handle: null, connected: false, waiting: 0, refused: 0 });
      }
      device.switches = now;
      this.changed();
    });
    void followServer((view) => this.see(view));
  }

  onChange(hear: () => void): () => void {
    this.hearers.add(hear);
    return () => this.hearers.delete(hear);
  }

  log(who: string, what: string, tone: Line['tone'] = 'plain'): void {
    this.lines = [{ n: ++this.count, at: Date.now(), who, what, tone }, ...this.lines].slice(0, MOST_LINES);
    this.changed();
  }

  /** The phone that is in the hands of the frame `id`, once it has started. */
  async phone(id: PhoneId): Promise<PhoneHandle> {
    await this.until(() => this.devices[id].handle !== null, `phone ${id} to start`);
    return this.devices[id].handle!;
  }

  /** Wait until `holds`. Throws when it takes too long. */
  async until(holds: () => boolean, what: string): Promise<void> {
    const end = Date.now() + PATIENCE;
    while (!holds()) {
      if (Date.now() > end) throw new Error(`This takes longer than it should: waited for ${what}.`);
      await new Promise((resolve) => setTimeout(resolve, 80));
    }
  }

  /** Everything as at first: other data on the server, empty phones, good networks. */
  async startOver(): Promise<void> {
    this.settingUp = true; // not by what the view says meanwhile
    const handles = PHONES.map((id) => this.devices[id].handle);
    await Promise.all(handles.map((handle) => handle?.close().catch(() => {})));
    await startOver(this.facts);
    const folder = await navigator.storage.getDirectory();
    for (const phone of PHONES) {
      localStorage.removeItem(sessionName(this.facts, phone));
      for (const user of [...USERS, ACCOUNT]) {
        const file = databaseName(this.facts, phone, user);
        for (const name of [file, `${file}-journal`, `${file}-wal`]) {
          await folder.removeEntry(name).catch(() => {}); // there is none
        }
      }
    }
    resetSwitches();
    location.reload();
  }

  private see(view: View | null): void {
    const before = this.view;
    this.view = view;
    if (view && before && view.head !== before.head) this.compare(before, view);
    if (!view && before) this.log('server', 'is not answering', 'bad');
    if (view && !this.settingUp && !isSet(view)) {
      this.settingUp = true;
      setUp(this.facts)
        .catch((error: Error) => this.log('server', `the team could not be founded: ${error.message}`, 'bad'))
        .finally(() => (this.settingUp = false));
    }
    this.changed();
  }

  private compare(before: View, view: View): void {
    const seen = new Set(before.conflicts.map((one) => one.id));
    for (const one of view.conflicts.filter(({ id }) => !seen.has(id)).reverse()) {
      const [won, lost] = [writer(view, one.won_by), writer(view, one.lost_by)];
      this.log('server', `${won} was later: the ${one.field || 'record'} of ${lost} is in the journal`, 'bad');
    }
    const refused = new Set(before.rejections.map((one) => one.id));
    for (const one of view.rejections.filter(({ id }) => !refused.has(id))) {
      const who = called(view, String(one.data.device ?? '').split('/')[0]!);
      this.log('server', `refused a change of ${who}: ${String(one.data.message)}`, 'bad');
    }
    for (const user of USERS) {
      const [was, is] = [before, view].map((one) => one.records.membership?.some((m) => m.data.user_id === user));
      if (was !== is) this.log('server', is ? `${user} is in the team` : `${user} is out of the team`);
    }
  }

  private heard(news: PhoneNews): void {
    if (news.kind === 'ready') {
      this.devices[news.handle.id].handle = news.handle;
    } else if (news.kind === 'report') {
      const device = this.devices[news.phone];
      const { connected, waiting } = news.report;
      if (connected !== device.connected) this.log(device.who.name, connected ? 'is connected' : 'has lost the connection');
      Object.assign(device, { connected, waiting });
    } else if (news.kind === 'who') {
      this.meet(this.devices[news.phone], news.who);
    } else if (news.kind === 'refused') {
      this.devices[news.phone].refused = news.refusals.length;
    } else {
      this.note(this.devices[news.phone], news.sent);
    }
    this.changed();
  }

  private meet(device: Device, who: Who): void {
    const before = device.who;
    device.who = who;
    if (who.kind === 'token' || (before.id === who.id && before.kind === who.kind)) return;
    const place = `phone ${device.id}`;
    if (who.kind === 'nobody' && before.id) this.log(before.name, `signed out of ${place}`);
    if (who.kind === 'guest') this.log('guest', `is on ${place}`);
    if (who.kind === 'account') this.log(who.name, `is signed in on ${place}`, 'good');
  }

  private note(device: Device, sent: Sent): void {
    const rest = device.sent.filter((one) => one.at !== sent.at || one.path !== sent.path);
    device.sent = [sent, ...rest].sort((a, b) => b.at - a.at).slice(0, 12);
    if (sent.path !== '/v1/sync/batches' || !sent.fate) return;
    const user = device.who.name;
    if (sent.fate === 'answered' && sent.status === 200) this.log(user, 'sent its changes: they are durable', 'good');
    if (sent.fate === 'answer lost') this.log(user, 'sent its changes, but the answer got lost: it sends them again', 'bad');
    if (sent.fate === 'request lost') this.log(user, 'sent its changes, but they got lost on the way', 'bad');
  }

  private changed(): void {
    for (const hear of this.hearers) hear();
  }
}

/** Who holds a phone, until it says so itself. */
function expected({ user }: Switches): Who {
  if (user === ACCOUNT) return { kind: 'nobody', id: '', name: 'nobody', email: '' };
  return { kind: 'token', id: user, name: user, email: '' };
}
