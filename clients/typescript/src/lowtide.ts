// One device of one user: its database, its connection, and what became of its changes.

import type { CommonPowerSyncDatabase } from '@powersync/common';
import { Notes } from './batch.js';
import { Connection, type ConnectionOptions } from './connection.js';
import { LowtideConnector, type MergedChange, type Outdated, type Refusal } from './connector.js';
import { isError, LowtideError } from './errors.js';
import { Events } from './events.js';
import { Conflicts, Rejections } from './feeds.js';
import { type AnyFunctions, type ArgsOf, type Command, type ResultOf, ServerFunctions } from './functions.js';
import type { Fetch } from './http.js';
import { locked } from './lock.js';
import { Session, type TokenSource } from './session.js';
import { surroundings, type Watch } from './surroundings.js';

export interface LowtideOptions {
  /** Where the server is; a `Session` knows. */
  readonly endpoint?: string;
  /** Who is signed in: a `Session`, or the app's own tokens. */
  readonly tokens: Session | TokenSource | (() => Promise<string | null>);
  readonly fetch?: Fetch;
  /** What the server is told of this version, such as `ios/2.0.3`; a `Session` knows. */
  readonly appVersion?: string;
  /** What is known of network and screen; the browser's unless given. */
  readonly surroundings?: Watch;
  readonly auditEvery?: number;
}

export interface LowtideEvents {
  /** Changes that the server has just refused. `rejections` has them, with their content, until they are dismissed. */
  refused: readonly Refusal[];
  /** Changes that met others; `conflicts` has the values that lost. */
  merged: readonly MergedChange[];
  /** An upload was answered; status 0: it was not. */
  upload: { readonly status: number; readonly code: string };
  /** This version of the app is no longer served: what was changed is still sent, and nothing comes down. */
  outdated: Outdated;
  /** The database was emptied, because the session was ended with a wipe; not by the user's own `signOut()`. */
  wiped: { readonly user: string };
  /** Something failed that nobody waits for. */
  error: LowtideError;
}

export class Lowtide<Functions extends object = AnyFunctions> {
  readonly connector: LowtideConnector;
  /** Changes that were refused. */
  readonly rejections: Rejections;
  /** Values that lost a conflict. */
  readonly conflicts: Conflicts;
  readonly functions: ServerFunctions<Functions>;
  readonly #db: CommonPowerSyncDatabase;
  readonly #session: Session | null;
  readonly #connection: Connection;
  readonly #events = new Events<LowtideEvents>();
  #unsubscribe: (() => void) | undefined;
  #opened: Promise<void> | null = null;
  #asked: ConnectionOptions | null = null; // by the app, for when the database is open
  #wanted: ConnectionOptions | null = null;
  #over = new AbortController(); // until it is closed
  #user: string | null = null;

  /** `db`: the SDK's database, of whatever platform. */
  constructor(db: CommonPowerSyncDatabase, options: LowtideOptions) {
    const { tokens, fetch, appVersion, auditEvery } = options;
    this.#db = db;
    this.#session = tokens instanceof Session ? tokens : null;
    const endpoint = options.endpoint ?? this.#session?.endpoint;
    if (!endpoint) throw new TypeError('Lowtide needs an endpoint.');
    this.connector = new LowtideConnector({
      endpoint,
      tokens,
      fetch,
      appVersion: appVersion ?? this.#session?.appVersion,
      ...(auditEvery !== undefined && { auditEvery }),
      onRefused: (event) => this.#events.emit('refused', event),
      onMerged: (event) => this.#events.emit('merged', event),
      onUpload: (event) => this.#events.emit('upload', event),
      onOutdated: (event) => this.#events.emit('outdated', event),
      onError: (error) => this.#tell(error)
    });
    this.rejections = new Rejections(db);
    this.conflicts = new Conflicts(this.connector);
    this.functions = new ServerFunctions<Functions>(db, this.connector);
    this.#connection = new Connection(db, this.connector, options.surroundings ?? surroundings(), (error) => this.#tell(error));
  }

  on<Name extends keyof LowtideEvents>(name: Name, listener: (event: LowtideEvents[Name]) => void): () => void {
    return this.#events.on(name, listener);
  }

  /** Before the first write. Needs no network. */
  async open(): Promise<void> {
    const opened = (this.#opened ??= (async () => {
      this.#unsubscribe ??= this.#session?.onChange(() => void this.#follow());
      await this.#session?.restore();
      await this.connector.prepare(this.#db);
      await this.#wipe();
    })());
    try {
      await opened;
    } catch (error) {
      if (this.#opened === opened) this.#opened = null; // else it was closed, and is being opened anew
      throw error;
    }
  }

  /**
   * Sync from now on, whenever network and manners allow. Returns without waiting for the network to be there. When
   * nobody is signed in, it begins with the sign-in.
   *
   * The database belongs to the user whose changes it holds. Where another one signs in, it is emptied; if
   * changes wait that were not sent, `other_user` is thrown instead, and nothing is lost.
   */
  async connect(options: ConnectionOptions = {}): Promise<void> {
    this.#asked = options;
    await this.open();
    if (this.#asked !== options) return; // disconnected meanwhile, or connected in another manner
    this.#wanted = options;
    await this.#start();
  }

  async disconnect(): Promise<void> {
    this.#asked = this.#wanted = null;
    await this.#connection.disconnect();
  }

  /** Sends what waits, for `deadline` milliseconds at most: for a task in the background. Has everything gone? */
  flush(deadline?: number): Promise<boolean> {
    return this.#connection.flush(deadline, this.#over.signal, () => this.open());
  }

  /** How many changes wait to be sent. */
  async waiting(): Promise<number> {
    await this.open();
    return new Notes(this.#db).waiting();
  }

  /** Call a function of the server now. */
  call<Name extends keyof Functions & string>(
    name: Name,
    args: ArgsOf<Functions, Name>
  ): Promise<ResultOf<Functions, Name>> {
    return this.functions.call(name, args);
  }

  /** Have a function of the server run when the network allows. */
  command<Name extends keyof Functions & string>(
    name: Name,
    args: ArgsOf<Functions, Name>
  ): Promise<Command<ResultOf<Functions, Name>>> {
    return this.functions.command(name, args);
  }

  /**
   * Sign out, and empty the database; if the app is closed in the middle of it, the next `open()` does. Throws
   * `unsent_changes`, and does nothing, while changes wait that were not sent, unless `discard` throws them away.
   * Throws `other_user`, and takes nothing from them, when somebody else has signed in by now in another tab.
   */
  async signOut({ discard = false } = {}): Promise<void> {
    await this.open();
    const user = this.#session?.user?.id ?? '';
    const waiting = await this.waiting();
    if (waiting > 0 && !discard) {
      throw new LowtideError('unsent_changes', `${waiting} changes were not sent yet.`, {
        hint: 'Connect and call flush(), or sign out with { discard: true }.'
      });
    }
    await this.#connection.disconnect();
    const whose = await this.#whose();
    try {
      // Kept before anything is deleted: should the app end in between, open() finishes it.
      await this.#session?.signOut({ wipe: true, user });
    } catch (error) {
      // Whoever stays signed in stays connected; another one is by the change that was heard.
      if (this.#wanted && this.#session?.user?.id === user) await this.#connection.connect(this.#wanted);
      throw error;
    }
    if (await this.#wipe()) return;
    await this.#alone(async () => {
      // Who has heard of it may have emptied it, and somebody else begun.
      if ((await this.#whose()) !== whose) return;
      await this.#empty();
      this.#user = null;
    });
    await this.#follow(); // who has begun before that is to be connected
  }

  /**
   * Empty the database for the user who is signed in now; what another one had not sent is lost. Does nothing where it
   * is this user's already: another tab may have been first.
   */
  async discardOther(): Promise<void> {
    await this.open();
    await this.#connection.disconnect();
    await this.#alone(async () => {
      if (!(await this.connector.claim(this.#db))) await this.#empty();
    });
    if (this.#wanted) await this.#start();
  }

  /** Disconnect, and let go of everything but the database, until it is opened or connected again. */
  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = null;
    this.#over.abort();
    this.#over = new AbortController();
    this.#unsubscribe?.();
    this.#unsubscribe = undefined;
    const release = () => {
      if (!this.#opened) this.connector.close();
    };
    release();
    opened?.then(release, release); // what was being opened is let go of, too
    await this.disconnect();
  }

  async #start(): Promise<void> {
    const user = this.#session?.user?.id ?? null;
    if (this.#session && user === null) return; // begins with the sign-in
    await this.#alone(async () => {
      if (await this.connector.claim(this.#db)) return;
      if ((await new Notes(this.#db).waiting()) > 0) {
        throw new LowtideError('other_user', 'The database holds changes of another user that were not sent.', {
          hint: 'Merge the accounts, sign in as that user, or call discardOther().'
        });
      }
      await this.#empty();
      await this.connector.claim(this.#db);
    });
    this.#user = user;
    if (this.#wanted) await this.#connection.connect(this.#wanted);
  }

  /** The session has changed, here or in another tab. */
  async #follow(): Promise<void> {
    if (!this.#opened) return;
    try {
      await this.#opened;
      const user = this.#session?.user?.id ?? null;
      if (user === null) {
        await this.#connection.disconnect();
        this.#user = null;
        await this.#wipe();
      } else if (user !== this.#user && this.#wanted && !this.#session?.guest) {
        await this.#start();
      }
    } catch (error) {
      this.#tell(error);
    }
  }

  #tell(error: unknown): void {
    const told = isError(error) ? error : new LowtideError('storage', 'The database failed.', { cause: error });
    this.#events.emit('error', told);
  }

  /** Empty the database if the session ended so; says whether it did. */
  async #wipe(): Promise<boolean> {
    const wanted = (state = this.#session?.state) => (state?.status === 'signed_out' && state.ended?.wipe ? state.ended : null);
    if (!wanted()) return false;
    return this.#alone(async () => {
      const ended = wanted(await this.#session?.look()); // another tab may have done it
      if (!ended) return false;
      await this.#empty();
      await this.#session?.wiped();
      // (Who signs out knows.)
      if (ended.code !== 'signed_out') this.#events.emit('wiped', { user: ended.user });
      return true;
    });
  }

  /** The user whose the database is; empty: nobody's. */
  async #whose(): Promise<string> {
    return (await new Notes(this.#db).get('owner')) || (this.#session?.user?.id ?? '');
  }

  /** One tab at a time: the second finds what the first has left. Other databases wait for nobody. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    return locked(`lowtide.data@${this.connector.endpoint} ${this.#db.database.name}`, work);
  }

  async #empty(): Promise<void> {
    this.connector.abort(); // nobody's changes wait behind it
    await this.#db.disconnectAndClear();
    this.connector.hurry();
    await this.connector.disown(this.#db, this.#session?.user?.id ?? '');
  }
}
