import type { CommonPowerSyncDatabase, PowerSyncBackendConnector, PowerSyncCredentials, SyncOptions } from '@powersync/common';

/** What a device says of itself: shown to its user, believed for nothing else. */
interface DeviceFacts {
    readonly name?: string;
    readonly platform?: string;
    readonly app_version?: string;
    readonly locale?: string;
    /** The installation's id: the same over sign-outs. */
    readonly installation?: string;
}
interface Account {
    /** Never changes: the `sub` of tokens, and what fields of owners hold. */
    readonly id: string;
    readonly anonymous: boolean;
    readonly name: string | null;
    readonly email: string | null;
    readonly email_verified: boolean;
    readonly phone: string | null;
    readonly phone_verified: boolean;
    readonly claims: Readonly<Record<string, unknown>>;
    readonly roles: readonly string[];
    readonly created_at: number;
}
/** What a sign-in is for. */
interface Linking {
    /** Give the account that is signed in this way in, and sign in to no other. Needs a sign-in of the last minutes. */
    readonly link?: boolean;
}
/** A code was sent. Keep it until the user is back with the code: the app may be closed in between. */
interface Flow {
    readonly flow_id: string;
    /** To be shown: whoever opens the link of a mail elsewhere is asked for it. */
    readonly number: string;
    /** Seconds. */
    readonly expires_in: number;
}
/** Signed in. */
interface Welcome {
    readonly status: 'signed_in';
    /** `upgraded`: the anonymous user has a name now, and the same id. */
    readonly outcome: 'signed_in' | 'created' | 'upgraded';
    readonly user: Account;
    /** The id of the anonymous account that was left behind: `session.signIn.merge()` makes the two one. */
    readonly guest: string | null;
}
/** The first factor was right: one of `factors` is to follow, with the `ticket`. */
interface SecondFactorNeeded {
    readonly status: 'second_factor_needed';
    readonly ticket: string;
    readonly factors: readonly ('totp' | 'recovery' | 'passkey' | (string & {}))[];
    readonly expires_in: number;
}
type SignInResult = Welcome | SecondFactorNeeded;
/** One of the user's sessions. */
interface Device {
    readonly id: string;
    readonly current: boolean;
    readonly name: string;
    readonly platform: string;
    readonly app_version: string;
    readonly client: string;
    readonly ip: string;
    readonly user_agent: string;
    readonly created_at: number;
    readonly seen_at: number;
}
interface Identity {
    readonly provider: string;
    readonly subject: string;
    readonly email: string | null;
    readonly linked_at: number;
    readonly used_at: number;
}
interface Passkey {
    readonly id: string;
    readonly name: string;
    readonly created_at: number;
    readonly used_at: number;
    readonly backed_up: boolean;
    readonly aaguid: string;
    readonly transports: readonly string[];
}
/** What became of a merge of accounts. */
interface Merged {
    /** How many records were moved. */
    readonly records: number;
    /** Those that stayed, because the user has one with the same unique values. */
    readonly left: readonly {
        readonly space: string;
        readonly model: string;
        readonly id: string;
        readonly code: string;
    }[];
}

/** Options and credentials as WebAuthn Level 3 writes them in JSON. */
type PasskeyJson = Record<string, unknown>;
/** Done by the browser, or on phones by a package such as `react-native-passkeys`; null when nobody chose one. */
interface PasskeyCeremony {
    create(options: any): Promise<object | null>;
    get(options: any): Promise<object | null>;
}
/**
 * What the ceremony gave. Throws `aborted` where nobody chose a passkey: browsers say so with `NotAllowedError`; and
 * `not_retryable` where this device has one of the account already.
 */
declare function chosen(ceremony: Promise<object | null>): Promise<object>;
/** With `navigator.credentials`. `mediation: 'conditional'` offers passkeys in a form's field. */
declare function browserPasskeys(more?: {
    mediation?: 'conditional' | 'optional' | 'required' | 'silent';
    signal?: AbortSignal;
}): PasskeyCeremony;

declare class OwnAccount {
    #private;
    read(): Promise<Account>;
    /** Change the name; null takes it away. */
    rename(name: string | null): Promise<Account>;
    /** Where the user is signed in, the newest first. */
    devices(): Promise<readonly Device[]>;
    /** Sign one device out; with `wipe` it is asked to delete what it holds, too. */
    signOutDevice(id: string, { wipe }?: {
        wipe?: boolean | undefined;
    }): Promise<void>;
    /** Sign every other device out. */
    signOutOthers({ wipe }?: {
        wipe?: boolean | undefined;
    }): Promise<void>;
    /** The ways in that the user has. */
    identities(): Promise<readonly Identity[]>;
    /** Take a way in away; never the last one. */
    unlink({ provider, subject }: Pick<Identity, 'provider' | 'subject'>): Promise<void>;
    /** A new password, with the present one unless the user has just signed in. Ends every other session. */
    changePassword(password: string, current?: string): Promise<void>;
    /** Begin to set up an authenticator app: show `uri` as a QR code, or `secret` to type. */
    enrolSecondFactor(): Promise<{
        secret: string;
        uri: string;
    }>;
    /** Put it into force with a code from it. The recovery codes are shown this once. */
    confirmSecondFactor(code: string): Promise<readonly string[]>;
    /** New recovery codes in place of the old ones. */
    renewRecoveryCodes(): Promise<readonly string[]>;
    removeSecondFactor(): Promise<void>;
    /** Make a passkey on this device. An anonymous user is one no longer, and keeps their id. */
    addPasskey(name: string, ceremony?: PasskeyCeremony): Promise<Passkey>;
    passkeys(): Promise<readonly Passkey[]>;
    renamePasskey(id: string, name: string): Promise<void>;
    deletePasskey(id: string): Promise<void>;
    /** Delete the account. The session ends at the next request, with a wipe. */
    delete(): Promise<void>;
}

type Fetch = (address: string, init: RequestInit) => Promise<Response>;
type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
interface HttpOptions {
    /** Where the server is, such as `https://api.example.com`. */
    readonly endpoint: string;
    /** In place of the platform's `fetch`. */
    readonly fetch?: Fetch | undefined;
    /** What the server is told of this version, such as `ios/2.0.3`: it may refuse those that are too old. */
    readonly appVersion?: string | undefined;
}
interface Sending {
    readonly body?: unknown;
    readonly token?: string | null | undefined;
    /** Milliseconds for one attempt; 30,000 unless given. */
    readonly deadline?: number | undefined;
    readonly signal?: AbortSignal | undefined;
    /** How often a request without an answer is sent, in all; a POST then carries an Idempotency-Key. */
    readonly attempts?: number | undefined;
    /** That key, where the same call is sent by several requests: it is done once. */
    readonly key?: string | undefined;
    /**
     * The member by which the answer is told: a success without it is of something in between (`not_lowtide`). An empty
     * text: the answer is to be empty. Where it is not given, any JSON object will do, and nothing, too.
     */
    readonly holds?: string | undefined;
}
declare class Http {
    #private;
    readonly endpoint: string;
    readonly appVersion: string | undefined;
    constructor({ endpoint, fetch, appVersion }: HttpOptions);
    /** The answer's body; undefined for 204. Throws a `LowtideError` for anything but success. */
    send<T>(method: Method, path: string, sending?: Sending): Promise<T>;
}
/** Wait; throws `aborted` when `signal` says so. */
declare function pause(milliseconds: number, signal?: AbortSignal): Promise<void>;
/**
 * What `work` comes to, or `late` once `deadline` milliseconds are over or `signal` says so. Work that hangs is told by
 * the signal that it is given, and nobody waits for it any more.
 */
declare function inTime<T>(deadline: number, late: T, signal: AbortSignal | undefined, work: (end: AbortSignal) => Promise<T>): Promise<T>;
/** Run `work` with a signal that says so when one of `signals` does, when `stop` is called, and when it is over. */
declare function until<T>(signals: readonly (AbortSignal | undefined)[], work: (end: AbortSignal, stop: () => void) => Promise<T>): Promise<T>;
/** The same promise, or `aborted` as soon as `signal` says so. */
declare function settled<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T>;

declare class SignIn {
    #private;
    /** Begin without a name. Who is signed in already stays so. */
    anonymous(): Promise<Welcome>;
    /** Have a code and a link mailed to this address. Show `number` of the flow to who may use the link. */
    startEmail(email: string): Promise<Flow>;
    /** Finish with the code from the mail. */
    finishEmail(flow: Pick<Flow, 'flow_id'>, code: string, { link }?: Linking): Promise<SignInResult>;
    /**
     * Wait until the link in the mail was opened, on whatever device, and the flow's `number` was chosen there. A network
     * that fails meanwhile is waited for, too, until `signal` gives up, or the session is closed. Where the app was closed,
     * or the answer could not be kept (`storage`), call it again with the same flow: it is one sign-in.
     */
    waitForLink(flow: Pick<Flow, 'flow_id'>, signal?: AbortSignal, { link }?: Linking): Promise<SignInResult>;
    /** With an address and its password. */
    password(email: string, password: string): Promise<SignInResult>;
    /** Sign up, or set a new password, with the code from a mail. */
    setPassword(flow: Pick<Flow, 'flow_id'>, code: string, password: string): Promise<SignInResult>;
    /** Have a code sent to this number. */
    startSms(phone: string): Promise<Flow>;
    /** Finish with the code from the text message. */
    finishSms(flow: Pick<Flow, 'flow_id'>, code: string, { link }?: Linking): Promise<SignInResult>;
    /** The second factor: a code from the authenticator app, or a recovery code. */
    secondFactor(needed: Pick<SecondFactorNeeded, 'ticket'>, code: string): Promise<SignInResult>;
    /** With a passkey; as the second factor, if a sign-in waits for one. */
    passkey(needed?: Pick<SecondFactorNeeded, 'ticket'>, ceremony?: PasskeyCeremony): Promise<SignInResult>;
    /** A nonce for `idToken`: Apple's and Google's sheets take `hashed` or `raw`, the server takes `raw`. */
    nonce(): {
        raw: string;
        hashed: string;
    };
    /** With what the phone's own sheet gave. */
    idToken(given: {
        provider: 'apple' | 'google';
        id_token: string;
        nonce: string;
        authorization_code?: string;
        name?: string;
        link?: boolean;
    }): Promise<SignInResult>;
    /**
     * Begin with an OpenID provider: open `url` in the system's browser, and give the address at which the app is
     * called back to `finishUpstream`. What must be known then is kept: the app may be closed in between.
     * `max_age`: for a step-up, how many seconds ago the user may have signed in there; beyond it they are asked.
     */
    startUpstream(provider: string, redirect_uri: string, login_hint?: string, max_age?: number): Promise<{
        url: string;
    }>;
    /** Finish with the address at which the app was called back. Throws the provider's `error` as code. */
    finishUpstream(address: string, { link }?: Linking): Promise<SignInResult>;
    /**
     * Make the anonymous account that was left behind (`Welcome.guest`) part of the one that is signed in, with all
     * that was written under it, also what still waits on this device.
     */
    merge(): Promise<Merged>;
    /** Leave the anonymous account behind for good. */
    forgetGuest(): Promise<void>;
}

/**
 * Keeps texts by name. `set` replaces the whole text or nothing of it, also when the app dies in the middle, and has
 * kept it when its promise is fulfilled. All throw when they cannot: a key store that is locked is not an empty one.
 */
interface Store {
    get(name: string): Promise<string | null>;
    set(name: string, value: string): Promise<void>;
    remove(name: string): Promise<void>;
}
/** `localStorage`, or what is like it but answers with promises, such as React Native's AsyncStorage. */
interface WebStorageLike {
    getItem(name: string): string | null | Promise<string | null>;
    setItem(name: string, value: string): void | Promise<void>;
    removeItem(name: string): void | Promise<void>;
}
/** `expo-secure-store`, or what is like it. */
interface SecureStoreLike {
    getItemAsync(name: string, options?: object): Promise<string | null>;
    setItemAsync(name: string, value: string, options?: object): Promise<void>;
    deleteItemAsync(name: string, options?: object): Promise<void>;
}
/** Forgets everything at the end of the process: for tests, and for servers that sign in anew. */
declare function memoryStore(): Store;
/** In `localStorage`, shared by all tabs of an origin. */
declare function webStore(storage?: WebStorageLike): Store;
/** In IndexedDB: for workers, which have no `localStorage`. */
declare function indexedDbStore(database?: string): Store;
/**
 * In the phone's key store. A long text lies there in parts: the new parts first, then the entry that names them, so
 * that there is always a whole one. `options` go along with each call: choose one that no backup takes to another
 * device, such as `{ keychainAccessible: SecureStore.AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY }`.
 */
declare function secureStore(store: SecureStoreLike, options?: object): Store;
/** In files of a folder, which only their owner may read. For Node 20.16 or newer; one process at a time. */
declare function fileStore(folder: string): Store;

interface SessionOptions {
    /** Where the server is, such as `https://api.example.com`. */
    readonly endpoint: string;
    /** Where the session is kept. */
    readonly store: Store;
    /** Its name there; for apps with several sessions side by side. */
    readonly name?: string;
    /** What the user sees of this device in the list of their devices. */
    readonly device?: DeviceFacts;
    /** The space in which the user acts; `main` unless given. */
    readonly space?: string;
    readonly fetch?: Fetch;
    /** How passkeys are made and used; the browser's unless given. */
    readonly passkeys?: PasskeyCeremony;
}
/** Why a session came to its end. */
interface Ended {
    readonly code: 'signed_out' | 'session_revoked' | 'invalid_grant' | (string & {});
    readonly reason: string;
    /** What this device holds of the user is to be deleted. */
    readonly wipe: boolean;
    readonly user: string;
}
type SessionState = {
    readonly status: 'signed_out';
    readonly ended: Ended | null;
}
/** Signed in. `authenticated_offline`: the server has not been heard since the start, or does not answer. */
 | {
    readonly status: 'authenticated' | 'authenticated_offline';
    readonly user: Account;
    readonly guest: string | null;
};
/** Who gives tokens to uploads and downloads. */
interface TokenSource {
    /**
     * An access token, another one than `refused`; null when nobody is signed in. Throws when the network fails: that
     * signs nobody out.
     */
    token(refused?: string): Promise<string | null>;
    /** Somebody else may be signed in from now on: a token that was kept to be given again is dropped. */
    forget?(): void;
    /** Whom tokens are of, with the ids that they had before accounts were merged. */
    readonly identity?: {
        readonly user: string;
        readonly former: readonly string[];
    } | null;
}
/**
 * What one user began goes on as nobody else: throws `other_user` once tokens are another's, after no merge. What
 * nobody began (`''`) goes on as nobody; null and undefined are not known, and pass.
 */
declare function stillOf(user: string | null | undefined, tokens: TokenSource): void;
declare class Session implements TokenSource {
    #private;
    /** The ways to sign in. */
    readonly signIn: SignIn;
    /** The user's own account: devices, ways in, password, passkeys. */
    readonly account: OwnAccount;
    constructor({ endpoint, store, name, device, space, ...rest }: SessionOptions);
    get endpoint(): string;
    /** What the server is told of this version; undefined where the device's facts do not say. */
    get appVersion(): string | undefined;
    get state(): SessionState;
    /** The user who is signed in; null when nobody is. */
    get user(): Account | null;
    get identity(): {
        user: string;
        former: readonly string[];
    } | null;
    /** Hear of every change of the state, also those made in another tab. */
    onChange(listener: (state: SessionState) => void): () => void;
    /** Go on with what is kept, without the network. Throws `storage` when it cannot be read: try again then. */
    restore(): Promise<SessionState>;
    /** An access token that is good for a while; see `TokenSource`. */
    token(refused?: string): Promise<string | null>;
    /** Fetch new tokens now, with what has changed of the user; act in another space from now on, if one is given. */
    refresh(space?: string): Promise<SessionState>;
    /** One request as the user. A token that is refused is renewed, and the request sent again. */
    request<T = unknown>(method: Method, path: string, body?: unknown, sending?: Sending): Promise<T>;
    /**
     * Sign out here. The server hears of it if it can be reached. What the device holds is `Lowtide.signOut`'s: with
     * `wipe` it is to be deleted, now or, after a crash, when it is opened again. Throws `other_user`, and ends nothing,
     * when somebody else has signed in by now, in another tab for example.
     */
    signOut({ wipe, user }?: {
        wipe?: boolean; /** @internal */
        user?: string;
    }): Promise<void>;
    /** The wipe that was asked for is done. */
    wiped(): Promise<void>;
    /**
     * Forget what is kept here, where it cannot be read and never will be: `storage` at each start, because the key store
     * was reset for example. Nobody is signed in then. The database stays whose it is, and goes on once they sign in again.
     */
    abandon(): Promise<void>;
    /** Stop listening to other tabs, and waiting for a link. What is on its way comes to its end. */
    close(): void;
}

/** A change that the server refused. Its content is in `lowtide_rejections`, until the app dismisses it. */
interface Refusal {
    readonly n: number;
    readonly code: string;
    readonly message: string;
    readonly hint: string;
    /** The record; empty for a transaction that was too large to send. */
    readonly model: string;
    readonly id: string;
}
/** A change that met another one which it did not know of; `fields` went to the conflict journal. */
interface MergedChange {
    readonly n: number;
    readonly model: string;
    readonly id: string;
    readonly fields: readonly string[];
}
/** This version of the app is no longer served. */
interface Outdated {
    /** The oldest version that is. */
    readonly minimum: string;
    /** Where a newer one is; empty if the server does not say. */
    readonly store: string;
}
interface ConnectorOptions {
    readonly endpoint: string;
    /** A `Session`, or any other source of tokens. */
    readonly tokens: TokenSource | (() => Promise<string | null>);
    readonly fetch?: Fetch | undefined;
    readonly appVersion?: string | undefined;
    readonly onRefused?: (refusals: readonly Refusal[]) => void;
    readonly onMerged?: (changes: readonly MergedChange[]) => void;
    /** Hears of every answer to an upload, and of its absence as status 0. */
    readonly onUpload?: (answer: {
        readonly status: number;
        readonly code: string;
    }) => void;
    /** Hears, once in a connection, that this version of the app is too old to download. */
    readonly onOutdated?: (event: Outdated) => void;
    /** Hears of an audit that failed: it is tried again tomorrow. */
    readonly onError?: (error: unknown) => void;
    /** Milliseconds between two audits of what the device holds; a day unless given. */
    readonly auditEvery?: number;
}
declare class LowtideConnector implements PowerSyncBackendConnector {
    #private;
    constructor(options: ConnectorOptions);
    get endpoint(): string;
    /** What the server is told of this version. */
    get appVersion(): string | undefined;
    /** Before the first write: notes when each change is made from now on. */
    prepare(db: CommonPowerSyncDatabase): Promise<void>;
    /** Give up the upload that is on its way. It is sent again, and counts once, unless the database is emptied. */
    abort(): void;
    /** Let go of the database. */
    close(): void;
    /**
     * Has the server compare what this device holds: once a day by itself. What differs is downloaded anew and
     * replaced at one checkpoint. Gives the names of the buckets that differed.
     */
    audit(db: CommonPowerSyncDatabase): Promise<readonly string[]>;
    /**
     * The database is the present user's from now on. Says no, and changes nothing, when it holds another user's data:
     * unless that user has become this one, by a merge of accounts.
     */
    claim(db: CommonPowerSyncDatabase): Promise<boolean>;
    /** The database is this user's, or nobody's, whoever's it was: after it was emptied. */
    disown(db: CommonPowerSyncDatabase, user: string): Promise<void>;
    /** A new connection begins, or another user: no token of before is used again. */
    begin(): void;
    fetchCredentials(): Promise<PowerSyncCredentials | null>;
    /** Called by the SDK while there is something to upload. Throws to be called again after a pause. */
    uploadData(db: CommonPowerSyncDatabase): Promise<void>;
    /** The same until `signal` gives up; one at a time. */
    upload(db: CommonPowerSyncDatabase, signal?: AbortSignal): Promise<void>;
    /** Try again at the next occasion: the network is back, or the user asks. */
    hurry(): void;
    /**
     * One request as the user, repeated once with a new token if the first was refused. Throws `other_user`, and is not
     * sent, when somebody else is signed in by then.
     */
    request<T>(method: Method, path: string, sending?: Omit<Sending, 'token'>): Promise<T>;
}

interface Surroundings {
    /** False only where the platform is sure. */
    readonly online: boolean;
    readonly metered: boolean;
    /** Is the app in front? */
    readonly visible: boolean;
}
interface Watch {
    now(): Surroundings;
    /** Call `listener` after each change, until the function that is returned is called. */
    subscribe(listener: () => void): () => void;
    /** What becomes of the connection while the app is not in front, unless the app says otherwise. */
    readonly background: 'pause' | 'stay';
}
/** A browser's: `navigator.onLine`, the Network Information API where it is, and the page's visibility. */
declare function browserSurroundings(): Watch;
/** `@react-native-community/netinfo`, as far as it is needed. */
interface NetInfoLike {
    addEventListener(listener: (state: {
        isConnected: boolean | null;
        details: {
            isConnectionExpensive?: boolean;
        } | null;
    }) => void): () => void;
}
/** React Native's `AppState`, as far as it is needed. */
interface AppStateLike {
    readonly currentState: string | null;
    addEventListener(type: 'change', listener: (state: string) => void): {
        remove(): void;
    };
}
/** React Native's, from `NetInfo` and `AppState`. */
declare function nativeSurroundings(netInfo: NetInfoLike | null, appState: AppStateLike): Watch;
/** Where nothing is known: always online and in front. */
declare function constantSurroundings(): Watch;
/** The browser's if this is a page, and nothing is known otherwise. */
declare function surroundings(): Watch;

interface ConnectionOptions {
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
/** Keeps the connection as the app wants it and the surroundings allow. One task at a time. */
declare class Connection {
    #private;
    /** `tell` hears of what fails while nobody waits for it. */
    constructor(db: CommonPowerSyncDatabase, connector: LowtideConnector, watch: Watch, tell: (error: unknown) => void);
    /** Is a connection wanted and allowed now? It may still be on its way. */
    get active(): boolean;
    connect(options?: ConnectionOptions): Promise<void>;
    disconnect(): Promise<void>;
    /**
     * Sends what waits, connected or not. Says whether everything has gone, after `deadline` milliseconds at the
     * latest, whatever hangs: the network, the database, or `open`, which is waited for first.
     */
    flush(deadline?: number, signal?: AbortSignal, open?: () => Promise<void>): Promise<boolean>;
}

/** A problem as the server tells it (RFC 9457); members beside these depend on `code`. */
interface Problem {
    readonly code?: string;
    readonly detail?: string;
    readonly hint?: string;
    readonly retry_after?: number;
    readonly request_id?: string;
    readonly [member: string]: unknown;
}
/** Codes that this package gives itself. The server's own are in its reference of errors. */
type LocalCode = 'network' | 'timeout' | 'aborted' | 'not_lowtide' | 'not_signed_in' | 'other_user' | 'unsent_changes' | 'waiting' | 'storage' | 'unsupported' | 'bad_callback' | 'not_retryable';
interface Details {
    readonly status?: number;
    readonly hint?: string;
    readonly retryable?: boolean;
    readonly problem?: Problem;
    readonly cause?: unknown;
}
/** Every error of this package. */
declare class LowtideError extends Error {
    readonly name = "LowtideError";
    /** Stable: the server's code, or one of `LocalCode`. */
    readonly code: LocalCode | (string & {});
    /** The HTTP status; 0 without an answer. */
    readonly status: number;
    /** What may help, in plain words; empty when there is nothing to say. */
    readonly hint: string;
    /** Can the same request succeed later, without a change? */
    readonly retryable: boolean;
    /** Milliseconds that the server asks to wait; 0 when it does not say. */
    readonly retryAfter: number;
    /** The server's whole answer. */
    readonly problem: Problem;
    constructor(code: LocalCode | (string & {}), message: string, details?: Details);
}
/** Is it an error of this package, with one of these codes if any are given? */
declare function isError(error: unknown, ...codes: string[]): error is LowtideError;
/** Statuses after which the same request may succeed later. */
declare function isTransient(status: number): boolean;

/** A change that the server refused, with its content. */
interface Rejection {
    readonly id: string;
    /** When it was refused: milliseconds since 1970. */
    readonly at: number;
    readonly code: string;
    readonly message: string;
    readonly hint: string;
    readonly op: 'put' | 'patch' | 'delete' | (string & {});
    readonly model: string;
    readonly record: string;
    /** What was to be written; null for a deletion. */
    readonly data: Readonly<Record<string, unknown>> | null;
    readonly base: Readonly<Record<string, unknown>> | null;
    readonly metadata: string | null;
}
/** A value that lost against a later one. Times are milliseconds since 1970. */
interface Conflict {
    readonly id: string;
    readonly model: string;
    readonly record: string;
    /** Empty: a deletion was undone by an edit. */
    readonly field: string;
    readonly lost: unknown;
    readonly lost_by: string;
    readonly lost_at: number;
    readonly won: unknown;
    readonly won_by: string;
    readonly won_at: number;
    readonly reason: string;
    readonly at: number;
    readonly restored_at: number | null;
}
declare class Rejections {
    #private;
    constructor(db: CommonPowerSyncDatabase);
    /** All that were not dismissed, the oldest first. */
    list(): Promise<readonly Rejection[]>;
    /** The list, and again whenever it changes, until `signal` ends it. */
    watch(signal?: AbortSignal): AsyncGenerator<readonly Rejection[], void>;
    /** It is settled: forget it, here and on the server. */
    dismiss(...ids: string[]): Promise<void>;
    /**
     * Make the same change once more, with what is different in `changed`, and dismiss the refusal: in one transaction. It
     * meets what others did meanwhile as the first try would have: an increment is added to theirs, an element of a set
     * put beside theirs. Until the server has answered, the record shows here what was refused. Throws `not_retryable`,
     * and the refusal stays, where nothing would be sent.
     */
    retry(id: string, changed?: Readonly<Record<string, unknown>>): Promise<void>;
}
declare class Conflicts {
    #private;
    constructor(connector: LowtideConnector);
    /** The values of a record that lost, the newest first, page by page. Needs the network. */
    of(model: string, id: string): AsyncGenerator<Conflict, void>;
    /** Write the lost value back, as the user: it comes to every device like any change. */
    restore(id: string): Promise<Conflict>;
}

/**
 * An app's functions, for types: the arguments of each by its name, as `lowtide client typescript` writes them. One that
 * is written `{ args: {...}; result: ... }` has a typed result, too.
 */
type AnyFunctions = {
    readonly [name: string]: Readonly<Record<string, unknown>>;
};
type ArgsOf<Functions, Name extends keyof Functions> = Functions[Name] extends {
    args: infer Args;
    result: unknown;
} ? Args : Functions[Name];
type ResultOf<Functions, Name extends keyof Functions> = Functions[Name] extends {
    args: unknown;
    result: infer Result;
} ? Result : unknown;
type CommandStatus = 'waiting' | 'pending' | 'done' | 'failed';
/** A call that was made without asking for the network. It runs once, also if the app is closed before. */
declare class Command<Result = unknown> {
    #private;
    /** Of its row: keep it to find the command again after a start. */
    readonly id: string;
    constructor(db: CommonPowerSyncDatabase, 
    /** Of its row: keep it to find the command again after a start. */
    id: string);
    status(): Promise<CommandStatus>;
    /**
     * What the function returned, when it has: minutes or days later. Throws the function's own refusal as a
     * `LowtideError`; `signal` gives up the wait, not the command.
     */
    result(signal?: AbortSignal): Promise<Result>;
    /** Forget the command and its result, here and on the server. One that was not sent yet is not run. */
    dismiss(): Promise<void>;
}
declare class ServerFunctions<Functions extends object> {
    #private;
    constructor(db: CommonPowerSyncDatabase, connector: LowtideConnector);
    /** Call it now. Needs the network; an answer that is lost on the way is asked for again, and it runs once. */
    call<Name extends keyof Functions & string>(name: Name, args: ArgsOf<Functions, Name>): Promise<ResultOf<Functions, Name>>;
    /** Have it run when the network allows: kept on this device, sent in order with all other changes. */
    command<Name extends keyof Functions & string>(name: Name, args: ArgsOf<Functions, Name>): Promise<Command<ResultOf<Functions, Name>>>;
    /** A command of before, by its id. */
    find<Name extends keyof Functions & string>(id: string): Command<ResultOf<Functions, Name>>;
}

interface LowtideOptions {
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
interface LowtideEvents {
    /** Changes that the server has just refused. `rejections` has them, with their content, until they are dismissed. */
    refused: readonly Refusal[];
    /** Changes that met others; `conflicts` has the values that lost. */
    merged: readonly MergedChange[];
    /** An upload was answered; status 0: it was not. */
    upload: {
        readonly status: number;
        readonly code: string;
    };
    /** This version of the app is no longer served: what was changed is still sent, and nothing comes down. */
    outdated: Outdated;
    /** The database was emptied, because the session was ended with a wipe; not by the user's own `signOut()`. */
    wiped: {
        readonly user: string;
    };
    /** Something failed that nobody waits for. */
    error: LowtideError;
}
declare class Lowtide<Functions extends object = AnyFunctions> {
    #private;
    readonly connector: LowtideConnector;
    /** Changes that were refused. */
    readonly rejections: Rejections;
    /** Values that lost a conflict. */
    readonly conflicts: Conflicts;
    readonly functions: ServerFunctions<Functions>;
    /** `db`: the SDK's database, of whatever platform. */
    constructor(db: CommonPowerSyncDatabase, options: LowtideOptions);
    on<Name extends keyof LowtideEvents>(name: Name, listener: (event: LowtideEvents[Name]) => void): () => void;
    /** Before the first write. Needs no network. */
    open(): Promise<void>;
    /**
     * Sync from now on, whenever network and manners allow. Returns without waiting for the network to be there. When
     * nobody is signed in, it begins with the sign-in.
     *
     * The database belongs to the user whose changes it holds. Where another one signs in, it is emptied; if
     * changes wait that were not sent, `other_user` is thrown instead, and nothing is lost.
     */
    connect(options?: ConnectionOptions): Promise<void>;
    disconnect(): Promise<void>;
    /** Sends what waits, for `deadline` milliseconds at most: for a task in the background. Has everything gone? */
    flush(deadline?: number): Promise<boolean>;
    /** How many changes wait to be sent. */
    waiting(): Promise<number>;
    /** Call a function of the server now. */
    call<Name extends keyof Functions & string>(name: Name, args: ArgsOf<Functions, Name>): Promise<ResultOf<Functions, Name>>;
    /** Have a function of the server run when the network allows. */
    command<Name extends keyof Functions & string>(name: Name, args: ArgsOf<Functions, Name>): Promise<Command<ResultOf<Functions, Name>>>;
    /**
     * Sign out, and empty the database; if the app is closed in the middle of it, the next `open()` does. Throws
     * `unsent_changes`, and does nothing, while changes wait that were not sent, unless `discard` throws them away.
     * Throws `other_user`, and takes nothing from them, when somebody else has signed in by now in another tab.
     */
    signOut({ discard }?: {
        discard?: boolean | undefined;
    }): Promise<void>;
    /**
     * Empty the database for the user who is signed in now; what another one had not sent is lost. Does nothing where it
     * is this user's already: another tab may have been first.
     */
    discardOther(): Promise<void>;
    /** Disconnect, and let go of everything but the database, until it is opened or connected again. */
    close(): Promise<void>;
}

export {
  type Account,
  type AnyFunctions,
  type AppStateLike,
  type ArgsOf,
  browserPasskeys,
  browserSurroundings,
  Command,
  type CommandStatus,
  type Conflict,
  Conflicts,
  type Connection,
  type ConnectionOptions,
  type ConnectorOptions,
  type Device,
  type DeviceFacts,
  type Ended,
  type Fetch,
  fileStore,
  type Flow,
  type Identity,
  indexedDbStore,
  isError,
  type Linking,
  type LocalCode,
  Lowtide,
  LowtideConnector,
  LowtideError,
  type LowtideEvents,
  type LowtideOptions,
  memoryStore,
  type Merged,
  type MergedChange,
  type Method,
  nativeSurroundings,
  type NetInfoLike,
  type Outdated,
  type OwnAccount,
  type Passkey,
  type PasskeyCeremony,
  type PasskeyJson,
  type Problem,
  type Refusal,
  type Rejection,
  Rejections,
  type ResultOf,
  type SecondFactorNeeded,
  secureStore,
  type SecureStoreLike,
  type Sending,
  ServerFunctions,
  Session,
  type SessionOptions,
  type SessionState,
  type SignIn,
  type SignInResult,
  type Store,
  type Surroundings,
  type TokenSource,
  type Watch,
  type WebStorageLike,
  webStore,
  type Welcome
};
