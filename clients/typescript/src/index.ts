// The public face: sign-in, uploads, server functions and their results, on an SDK compatible with Lowtide.

export type {
  Account,
  Device,
  DeviceFacts,
  Flow,
  Identity,
  Linking,
  Merged,
  Passkey,
  SecondFactorNeeded,
  SignInResult,
  Welcome
} from './answers.js';
export type { OwnAccount } from './account.js';
export type { Connection, ConnectionOptions } from './connection.js';
export { type ConnectorOptions, LowtideConnector, type MergedChange, type Outdated, type Refusal } from './connector.js';
export { isError, type LocalCode, LowtideError, type Problem } from './errors.js';
export { type Conflict, Conflicts, type Rejection, Rejections } from './feeds.js';
export {
  type AnyFunctions,
  type ArgsOf,
  Command,
  type CommandStatus,
  type ResultOf,
  ServerFunctions
} from './functions.js';
export type { Fetch, Method, Sending } from './http.js';
export { Lowtide, type LowtideEvents, type LowtideOptions } from './lowtide.js';
export { browserPasskeys, type PasskeyCeremony, type PasskeyJson } from './passkeys.js';
export { type Ended, Session, type SessionOptions, type SessionState, type TokenSource } from './session.js';
export type { SignIn } from './sign-in.js';
export {
  fileStore,
  indexedDbStore,
  memoryStore,
  secureStore,
  type SecureStoreLike,
  type Store,
  webStore,
  type WebStorageLike
} from './storage.js';
export {
  type AppStateLike,
  browserSurroundings,
  nativeSurroundings,
  type NetInfoLike,
  type Surroundings,
  type Watch
} from './surroundings.js';
