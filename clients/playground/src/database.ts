// A phone: an unmodified client SDK with a SQLite database of its own, and the connector that uploads.

import { column, Schema, Table } from '@powersync/common';
import { PowerSyncDatabase, WASQLiteVFS } from '@powersync/web';
import { Lowtide, Session, webStore, type Watch } from '@lowtide/client';
import { setClock, setUpClock } from './clock';
import { databaseName, sessionName } from './files';
import { Holder } from './holder';
import { Network, type Sent } from './network';
import { opening } from './opening';
import { askToken, type Facts } from './server';
import { ACCOUNT, onSwitches, readSwitches, type PhoneId, type Switches } from './switches';

const KINDS = { TEXT: column.text, INTEGER: column.integer, REAL: column.real };
const SYNC = { retryDelayMs: 600, crudUploadThrottleMs: 100 }; // a page is watched by somebody who waits
/** The phone's network is `Network`'s to take away; what the browser knows of the machine's is of no interest. */
const SURROUNDINGS: Watch = {
  background: 'stay',
  now: () => ({ online: true, metered: false, visible: true }),
  subscribe: () => () => {}
};
const ROWS = "SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'ps_data%' OR name IN ('ps_oplog', 'ps_crud'))";

export interface Report {
  connected: boolean;
  uploading: boolean;
  downloading: boolean;
  hasSynced: boolean;
  waiting: number;
}

export class Phone {
  readonly network: Network;
  db!: PowerSyncDatabase;
  lowtide!: Lowtide;
  holder!: Holder;
  switches: Switches;
  private readonly outside: typeof fetch;
  private closed = false;

  constructor(
    readonly id: PhoneId,
    private readonly facts: Facts,
    hear: (sent: Sent) => void
  ) {
    this.switches = readSwitches(id);
    setUpClock(id, this.switches.ahead);
    this.outside = globalThis.fetch.bind(globalThis);
    this.network = new Network(this.outside, hear);
    this.network.set(this.switches);
    globalThis.fetch = this.network.send;
  }

  /** Open the database that belongs to the user of this phone, and begin to sync. */
  async open(): Promise<void> {
    this.db = await opening(this.id, () => this.openDatabase());
    // An account's session is kept as an app keeps it; whoever has a development token asks for another one.
    const { user } = this.switches;
    const endpoint = location.origin;
    const device = { name: `Phone ${this.id}`, platform: 'web' };
    const session =
      user === ACCOUNT ? new Session({ endpoint, store: webStore(), name: sessionName(this.facts, this.id), device }) : null;
    const tokens = session ?? (() => askToken(fetch, user));
    this.lowtide = new Lowtide(this.db, { endpoint, tokens, surroundings: SURROUNDINGS });
    this.holder = new Holder(user, session, this.lowtide, () => this.rows(), this.outside);
    await this.lowtide.open();
    this.holder.begin();
    this.connect(); // does not wait: another tab that has this phone open may be the one that syncs
    onSwitches((phone, now) => {
      if (phone === this.id) this.obey(now);
    });
  }

  private async openDatabase(): Promise<PowerSyncDatabase> {
    const options = { trackPrevious: { onlyWhenChanged: true }, trackMetadata: true };
    const tables = this.facts.tables.map(({ name, columns }) => [
      name,
      new Table(Object.fromEntries(columns.map((one) => [one.name, KINDS[one.type]])), options)
    ]);
    const { user, ahead } = this.switches;
    const db = new PowerSyncDatabase({
      schema: new Schema(Object.fromEntries(tables)),
      database: {
        dbFilename: databaseName(this.facts, this.id, user),
        vfs: WASQLiteVFS.OPFSCoopSyncVFS,
        enableMultiTabs: false, // the network's faults are this window's: what syncs must run in it
        disableSSRWarning: true,
        worker: () =>
          new Worker(new URL('./worker.js', import.meta.url), {
            type: 'module',
            name: JSON.stringify({ phone: this.id, ahead })
          })
      },
      logger: { log: () => {} }
    });
    await db.init();
    return db;
  }

  private connect(): void {
    this.lowtide
      .connect({ metered: 'ignore', sync: SYNC })
      .catch((error: unknown) => console.warn('the phone could not connect', error));
  }

  private obey(now: Switches): void {
    const before = this.switches;
    this.switches = now;
    setClock(this.id, now.ahead);
    this.network.set(now);
    if (now.user !== before.user) return location.reload(); // another user has a database of their own
    this.lowtide.connector.hurry(); // as an app does that hears of a network
    if (before.airplane && !now.airplane) this.connect();
  }

  /** How many rows its database holds: of any table, and waiting to be sent. */
  private async rows(): Promise<number> {
    let count = 0;
    for (const { name } of await this.db.getAll<{ name: string }>(ROWS)) {
      count += (await this.db.get<{ n: number }>(`SELECT count(*) AS n FROM "${name}"`)).n;
    }
    return count;
  }

  /** How it stands; null once it is closed. */
  async report(): Promise<Report | null> {
    const { connected, dataFlowStatus, hasSynced } = this.db.currentStatus;
    const queue = await this.db.getUploadQueueStats().catch((error: unknown) => {
      if (!this.closed) throw error;
    });
    if (!queue) return null;
    return {
      connected,
      uploading: dataFlowStatus.uploading ?? false,
      downloading: dataFlowStatus.downloading ?? false,
      hasSynced: hasSynced ?? false,
      waiting: queue.count
    };
  }

  /** Stop, so that the database's file can be deleted. */
  async close(): Promise<void> {
    this.closed = true;
    await this.lowtide.close();
    await this.db.close();
  }
}
