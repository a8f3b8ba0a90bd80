// What the server answers about accounts. Times are milliseconds since 1970.

/** What a device says of itself: shown to its user, believed for nothing else. */
export interface DeviceFacts {
  readonly name?: string;
  readonly platform?: string;
  readonly app_version?: string;
  readonly locale?: string;
  /** The installation's id: the same over sign-outs. */
  readonly installation?: string;
}

export interface Account {
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

/** @internal */
export interface SignedIn {
  readonly status: 'signed_in';
  readonly access_token: string;
  readonly refresh_token: string;
  readonly expires_in: number;
  readonly session_id: string;
  readonly outcome: 'signed_in' | 'created' | 'upgraded';
  readonly user: Account;
}

/** What a sign-in is for. */
export interface Linking {
  /** Give the account that is signed in this way in, and sign in to no other. Needs a sign-in of the last minutes. */
  readonly link?: boolean;
}

/** A code was sent. Keep it until the user is back with the code: the app may be closed in between. */
export interface Flow {
  readonly flow_id: string;
  /** To be shown: whoever opens the link of a mail elsewhere is asked for it. */
  readonly number: string;
  /** Seconds. */
  readonly expires_in: number;
}

/** Signed in. */
export interface Welcome {
  readonly status: 'signed_in';
  /** `upgraded`: the anonymous user has a name now, and the same id. */
  readonly outcome: 'signed_in' | 'created' | 'upgraded';
  readonly user: Account;
  /** The id of the anonymous account that was left behind: `session.signIn.merge()` makes the two one. */
  readonly guest: string | null;
}

/** The first factor was right: one of `factors` is to follow, with the `ticket`. */
export interface SecondFactorNeeded {
  readonly status: 'second_factor_needed';
  readonly ticket: string;
  readonly factors: readonly ('totp' | 'recovery' | 'passkey' | (string & {}))[];
  readonly expires_in: number;
}

export type SignInResult = Welcome | SecondFactorNeeded;

/** One of the user's sessions. */
export interface Device {
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

export interface Identity {
  readonly provider: string;
  readonly subject: string;
  readonly email: string | null;
  readonly linked_at: number;
  readonly used_at: number;
}

export interface Passkey {
  readonly id: string;
  readonly name: string;
  readonly created_at: number;
  readonly used_at: number;
  readonly backed_up: boolean;
  readonly aaguid: string;
  readonly transports: readonly string[];
}

/** What became of a merge of accounts. */
export interface Merged {
  /** How many records were moved. */
  readonly records: number;
  /** Those that stayed, because the user has one with the same unique values. */
  readonly left: readonly { readonly space: string; readonly model: string; readonly id: string; readonly code: string }[];
}
