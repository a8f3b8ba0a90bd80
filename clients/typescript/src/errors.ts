// What goes wrong, in one class: match on `code`.

/** A problem as the server tells it (RFC 9457); members beside these depend on `code`. */
export interface Problem {
  readonly code?: string;
  readonly detail?: string;
  readonly hint?: string;
  readonly retry_after?: number;
  readonly request_id?: string;
  readonly [member: string]: unknown;
}

/** Codes that this package gives itself. The server's own are in its reference of errors. */
export type LocalCode =
  | 'network' // no answer, or half of one: nothing is known of what the server did
  | 'timeout' // no answer in time
  | 'aborted' // the caller gave up, or the user chose no passkey
  | 'not_lowtide' // an answer, but not of Lowtide: a captive portal, or a proxy
  | 'not_signed_in'
  | 'other_user' // the database holds unsent changes of another user, or another user is signed in meanwhile
  | 'unsent_changes' // signing out would throw changes away
  | 'waiting' // the upload waits before it tries again
  | 'storage' // the session could not be read or kept
  | 'unsupported' // the platform lacks something
  | 'bad_callback' // the browser came back with something else than what was asked for
  | 'not_retryable'; // a refused change that cannot be made once more from here, a passkey that is there already

interface Details {
  readonly status?: number;
  readonly hint?: string;
  readonly retryable?: boolean;
  readonly problem?: Problem;
  readonly cause?: unknown;
}

/** Every error of this package. */
export class LowtideError extends Error {
  override readonly name = 'LowtideError';
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

  constructor(code: LocalCode | (string & {}), message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status ?? 0;
    this.hint = details.hint ?? '';
    this.retryable = details.retryable ?? false;
    this.problem = details.problem ?? {};
    const after = Number(this.problem.retry_after);
    this.retryAfter = after > 0 ? after * 1000 : 0;
  }
}

/** Is it an error of this package, with one of these codes if any are given? */
export function isError(error: unknown, ...codes: string[]): error is LowtideError {
  return error instanceof LowtideError && (codes.length === 0 || codes.includes(error.code));
}

/** Statuses after which the same request may succeed later. */
export function isTransient(status: number): boolean {
  return status === 408 || status === 429 || (status >= 500 && status !== 501);
}
