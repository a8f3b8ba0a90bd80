// A phone: an unmodified client SDK with a SQLite database of its own, and the connector that uploads.

import { column, Schema, Table } from '@powersync/common';
import { PowerSyncDatabase, WASQLiteVFS } from '@powersync/web';
import { LowtideConnector } from '@lowtide/client';
import { setClock, setUpClock } from './clock';
import { databaseName } from './files';
import { Network, type Sent } from './network';
import { askToken, type Facts } from './server';
import { onSwitches, readSwitches, type PhoneId, type Switches } from './switches';

const KINDS = { TEXT: column.text, INTEGER: column.integer, REAL: column.real };
const RETRY = 600; // milliseconds: a page is watched by somebody who waits

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
  readonly connector: LowtideConnector;
  switches: Switches;
  private closed = false;

  constructor(
    readonly id: PhoneId,
    private readonly facts: Facts,
    hear: (sent: Sent) => void
  ) {
    this.switches = readSwitches(id);
    setUpClock(id, this.switches.ahead);
    this.network = new Network(globalThis.fetch.bind(globalThis), hear);
    this.network.set(this.switches);
    globalThis.fetch = this.network.send;
    const { user } = this.switches;
    this.connector = new LowtideConnector({ endpoint: location.origin, tokens: () => askToken(fetch, user) });
  }

  /** Open the database that belongs to the user of this phone, and begin to sync. */
  async open(): Promise<void> {
    const options = { trackPrevious: { onlyWhenChanged: true }, trackMetadata: true };
    const tables = this.facts.tables.map(({ name, columns }) => [
      name,
      new Table(Object.fromEntries(columns.map((one) => [one.name, KINDS[one.type]])), options)
    ]);
    const { user, ahead } = this.switches;
    this.db = new PowerSyncDatabase({
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
    await this.db.init();
    await this.connector.prepare(this.db);
    this.connect(); // does not wait: another tab that has this phone open may be the one that syncs
    onSwitches((phone, now) => {
      if (phone === this.id) this.obey(now);
    });
  }

  private connect(): void {
    this.db
      .connect(this.connector, { retryDelayMs: RETRY, crudUploadThrottleMs: 100 })
      .catch((error: unknown) => console.warn('the phone could not connect', error));
  }

  private obey(now: Switches): void {
    const before = this.switches;
    this.switches = now;
    setClock(this.id, now.ahead);
    this.network.set(now);
    if (now.user !== before.user) return location.reload(); // another user has a database of their own
    this.connector.hurry(); // as an app does that hears of a network
    if (before.airplane && !now.airplane) this.connect();
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
    await this.db.disconnect();
    await this.db.close();
  }
}
