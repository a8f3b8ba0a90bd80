// When this device is connected: battery, metered networks, the app in the background.

import type { CommonPowerSyncDatabase, SyncOptions } from '@powersync/common';
import { Notes } from './batch.js';
import type { LowtideConnector } from './connector.js';
import { isError } from './errors.js';
import { inTime, pause } from './http.js';
import type { Watch } from './surroundings.js';

export interface ConnectionOptions {
  /**
   * On a metered network: `defer` lets streams wait that are declared `on_metered="defer"`, `pause` disconnects, and
   * `ignore` makes no difference. `defer` unless given.
   */
  readonly metered?: 'defer' | 'pause' | 'ignore';
  /** While the app is not in front: `pause` sends what waits, and disconnects. On phones unless given. */
  readonly background?: 'pause' | 'stay';
  /** Milliseconds for sending what waits when the app goes to the background. iOS gives 30,000 at most. */
  readonly grace?: number;
  /** Of the SDK's `connect`; `params`, `appMetadata` and pauses are added to. */
  readonly sync?: SyncOptions;
}

const GRACE = 25_000;
const RETRY = 5_000; // milliseconds before a connection is tried again, give or take a half
const COALESCE = 1_000; // milliseconds in which changes are gathered into one upload
const SPREAD = 2_000; // milliseconds over which devices spread when a network comes back

/** Keeps the connection as the app wants it and the surroundings allow. One task at a time. */
export class Connection {
  readonly #db: CommonPowerSyncDatabase;
  readonly #connector: LowtideConnector;
  readonly #watch: Watch;
  readonly #tell: (error: unknown) => void;
  #options: ConnectionOptions = {};
  #wanted = false;
  #shown = ''; // the parameters that the present connection was made with; empty without one
  #online = true;
  #leaving: AbortController | null = null;
  #spreading: AbortController | null = null;
  #stop: (() => void) | null = null;
  #work: Promise<unknown> = Promise.resolve();

  /** `tell` hears of what fails while nobody waits for it. */
  constructor(db: CommonPowerSyncDatabase, connector: LowtideConnector, watch: Watch, tell: (error: unknown) => void) {
    this.#db = db;
    this.#connector = connector;
    this.#watch = watch;
    this.#tell = tell;
  }

  /** Is a connection wanted and allowed now? It may still be on its way. */
  get active(): boolean {
    return this.#shown !== '';
  }

  async connect(options: ConnectionOptions = {}): Promise<void> {
    this.#options = options;
    this.#wanted = true;
    this.#online = this.#watch.now().online;
    this.#stop ??= this.#watch.subscribe(() => this.#changed());
    this.#shown = ''; // made anew, with these options
    await this.#settle();
  }

  async disconnect(): Promise<void> {
    this.#wanted = false;
    this.#rest();
    await this.#settle();
  }

  /**
   * Sends what waits, connected or not. Says whether everything has gone, after `deadline` milliseconds at the
   * latest, whatever hangs: the network, the database, or `open`, which is waited for first.
   */
  flush(deadline = GRACE, signal?: AbortSignal, open: () => Promise<void> = async () => {}): Promise<boolean> {
    return inTime(deadline, false, signal, async (end) => {
      await open();
      return this.#send(end);
    });
  }

  async #send(end: AbortSignal): Promise<boolean> {
    const notes = new Notes(this.#db);
    while ((await notes.waiting()) > 0) {
      if (end.aborted) return false;
      this.#connector.hurry();
      try {
        await this.#connector.upload(this.#db, end);
      } catch (error) {
        if (!isError(error) || !error.retryable) return false;
        await pause(Math.max(RETRY / 5, error.retryAfter), end).catch(() => {});
      }
    }
    return true;
  }

  #changed(): void {
    const { online, visible } = this.#watch.now();
    if (online && !this.#online) this.#back().catch(this.#tell);
    this.#online = online;
    if (visible) {
      this.#leaving?.abort();
      this.#leaving = null;
    } else if (this.#pausing && !this.#leaving && this.#shown) {
      this.#leave().catch(this.#tell);
    }
    this.#settle().catch(this.#tell);
  }

  get #pausing(): boolean {
    return (this.#options.background ?? this.#watch.background) === 'pause';
  }

  /** The app has gone to the background: finish, then disconnect. */
  async #leave(): Promise<void> {
    const leaving = (this.#leaving = new AbortController());
    await this.flush(this.#options.grace ?? GRACE, leaving.signal).catch(() => false);
    if (leaving.signal.aborted) return;
    this.#leaving = null;
    await this.#settle();
  }

  /** The network is back: not all devices in the same moment. */
  async #back(): Promise<void> {
    this.#spreading?.abort();
    const spreading = (this.#spreading = new AbortController());
    try {
      await pause(Math.random() * SPREAD, spreading.signal);
    } catch {
      return;
    }
    this.#connector.hurry();
    if (this.#wanted && !this.#db.connected) {
      this.#shown = '';
      await this.#settle();
    }
  }

  #rest(): void {
    this.#leaving?.abort();
    this.#spreading?.abort();
    this.#leaving = this.#spreading = null;
    this.#stop?.();
    this.#stop = null;
  }

  /** Connect or disconnect, until it is as it is to be. */
  #settle(): Promise<void> {
    const next = this.#work.then(() => this.#apply());
    this.#work = next.catch(() => {});
    return next;
  }

  async #apply(): Promise<void> {
    const { metered, visible } = this.#watch.now();
    const { metered: manner = 'defer', sync = {} } = this.#options;
    const hidden = !visible && this.#pausing && !this.#leaving;
    if (!this.#wanted || hidden || (metered && manner === 'pause')) {
      if (this.#shown || !this.#wanted) await this.#db.disconnect();
      this.#shown = '';
      return;
    }
    const params = { ...sync.params, ...(manner === 'defer' && { metered }) };
    const version = this.#connector.appVersion;
    const shown = JSON.stringify(params);
    if (this.#shown === shown) return;
    this.#shown = shown;
    this.#connector.begin();
    try {
      await this.#db.connect(this.#connector, {
        retryDelayMs: RETRY * (0.5 + Math.random()),
        crudUploadThrottleMs: COALESCE,
        ...sync,
        appMetadata: { ...(version && { app_version: version }), ...sync.appMetadata },
        params
      });
    } catch (error) {
      this.#shown = ''; // the next change of anything tries again
      throw error;
    }
  }
}
