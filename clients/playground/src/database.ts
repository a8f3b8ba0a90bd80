// A phone: an unmodified client SDK with a SQLite database of its own, and the connector that uploads.

import { column, Schema, Table } from '@powersync/common';
import { PowerSyncDatabase, WASQLiteVFS } from '@powersync/web';
// @ts-ignore the connector is plain JavaScript
import { LowtideConnector } from '../../../tests/node/connector.mjs';
import { real, setClock, setUpClock } from './clock';
import { databaseName } from './files';
import { Network, type Sent } from './network';
import { askToken, type Facts } from './server';
import { onSwitches, readSwitches, type PhoneId, type Switches } from './switches';

const KINDS = { TEXT: column.text, INTEGER: column.integer, REAL: column.real };
const TOKEN_FOR = 50 * 60_000; // milliseconds, of the hour that it is good for
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
  switches: Switches;
  private token: { user: string; text: string; until: number } | null = null;

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
    await this.connect();
    onSwitches((phone, now) => {
      if (phone === this.id) this.obey(now);
    });
  }

  private async connect(): Promise<void> {
    const connector = new LowtideConnector({
      endpoint: location.origin,
      getToken: () => this.getToken()
    });
    await connector.prepare(this.db);
    await this.db.connect(connector, { retryDelayMs: RETRY, crudUploadThrottleMs: 100 });
  }

  private obey(now: Switches): void {
    const before = this.switches;
    this.switches = now;
    setClock(this.id, now.ahead);
    this.network.set(now);
    if (now.user !== before.user) location.reload(); // another user has a database of their own
    else if (before.airplane && !now.airplane) void this.connect(); // as an app does that hears of a network
  }

  /** A token of the present user; asked for over the phone's own network, and again before it expires. */
  async getToken(): Promise<string> {
    const { user } = this.switches;
    if (this.token?.user !== user || real() > this.token.until) {
      this.token = { user, text: await askToken(fetch, user), until: real() + TOKEN_FOR };
    }
    return this.token.text;
  }

  async report(): Promise<Report> {
    const { connected, dataFlowStatus, hasSynced } = this.db.currentStatus;
    const { count } = await this.db.getUploadQueueStats();
    return {
      connected,
      uploading: dataFlowStatus.uploading ?? false,
      downloading: dataFlowStatus.downloading ?? false,
      hasSynced: hasSynced ?? false,
      waiting: count
    };
  }

  /** Stop, so that the database's file can be deleted. */
  async close(): Promise<void> {
    await this.db.disconnect();
    await this.db.close();
  }
}
