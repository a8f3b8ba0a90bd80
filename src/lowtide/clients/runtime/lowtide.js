// dist/batch.js
var MAX_MUTATIONS = 5e3;
var MAX_BYTES = 15 * 1024 * 1024;
var SETUP = [
  `CREATE TABLE IF NOT EXISTS lowtide_stamp(crud_id INTEGER PRIMARY KEY, at INTEGER NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS lowtide_upload(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_insert AFTER INSERT ON ps_crud BEGIN
     INSERT OR REPLACE INTO lowtide_stamp VALUES (NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
   END`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_delete AFTER DELETE ON ps_crud BEGIN
     DELETE FROM lowtide_stamp WHERE crud_id = OLD.id;
   END`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_change_delete AFTER DELETE ON ps_crud BEGIN
     DELETE FROM lowtide_upload WHERE key = 'change:' || OLD.id;
   END`
];
var Notes = class {
  db;
  constructor(db) {
    this.db = db;
  }
  /** Make the tables; harmless if they are there. */
  async setUp() {
    for (const sql of SETUP)
      await this.db.execute(sql);
  }
  async get(name) {
    const sql = "SELECT value FROM lowtide_upload WHERE key = ?";
    return (await this.db.getOptional(sql, [name]))?.value ?? null;
  }
  async set(name, value) {
    await this.db.execute("INSERT OR REPLACE INTO lowtide_upload VALUES (?, ?)", [name, value]);
  }
  /** Run `write`, which changes one row, in `tx`: it is sent as `change`, if one is given. Is it sent at all? */
  static async as(tx, change, write2) {
    const latest = async () => (await tx.get("SELECT coalesce(max(id), 0) AS n FROM ps_crud")).n;
    const before = await latest();
    await write2();
    const n = await latest();
    const sql = "INSERT OR REPLACE INTO lowtide_upload VALUES (?, ?)";
    if (n > before && change)
      await tx.execute(sql, [`change:${n}`, JSON.stringify(change)]);
    return n > before;
  }
  /** The changes of which this was noted, by their numbers. */
  async changes() {
    const sql = `SELECT key, value FROM lowtide_upload WHERE key GLOB 'change:*'`;
    const rows = await this.db.getAll(sql);
    return new Map(rows.map(({ key, value }) => [Number(key.slice("change:".length)), JSON.parse(value)]));
  }
  /** How many changes wait to be sent. */
  async waiting() {
    return (await this.db.get("SELECT count(*) AS n FROM ps_crud")).n;
  }
};
async function nextBatch(notes, most, bad) {
  const { db } = notes;
  const lineage = await notes.get("lineage") ?? void 0;
  const transactions = [];
  const changes = /* @__PURE__ */ new Map();
  const entries = /* @__PURE__ */ new Map();
  let [first, mutations, bytes] = [0, 0, 0];
  let last = null;
  for await (const transaction of db.getCrudTransactions()) {
    const { crud } = transaction;
    const spoilt = bad.first === crud[0].clientId ? bad.times : 0;
    const written = crud.map(spoilt > 0 ? unreadable : mutation);
    let sent = { mutations: written };
    let size = bytesOf(JSON.stringify(sent));
    if (size > MAX_BYTES || crud.length > MAX_MUTATIONS || spoilt > 1) {
      sent = { oversized: { n: crud.at(-1).clientId, count: crud.length, bytes: size } };
      size = 0;
    }
    mutations += crud.length;
    const full = mutations > MAX_MUTATIONS || bytes + size > MAX_BYTES || transactions.length >= most;
    if (full && transactions.length > 0)
      break;
    bytes += size;
    transactions.push(sent);
    for (const entry of crud)
      entries.set(entry.clientId, entry);
    if (spoilt === 0)
      for (const one of written)
        changes.set(one.n, one);
    first ||= crud[0].clientId;
    last = transaction;
  }
  if (!last)
    return null;
  const stamps = await db.getAll("SELECT crud_id, at FROM lowtide_stamp WHERE crud_id BETWEEN ? AND ?", [first, last.crud.at(-1).clientId]);
  for (const { crud_id, at } of stamps) {
    const change = changes.get(crud_id);
    if (change)
      change.at = at;
  }
  for (const [n, { data, base }] of await notes.changes()) {
    const change = changes.get(n);
    if (change)
      Object.assign(change, { data, base: { ...change.base, ...base } });
  }
  const complete = last.complete;
  return {
    body: { client_id: await db.getClientId(), lineage, sent_at: Date.now(), transactions },
    count: transactions.length,
    bytes,
    first,
    last: last.crud.at(-1).clientId,
    entries,
    complete: () => complete()
  };
}
async function beginLineage(notes, known) {
  let applied = null;
  for await (const transaction of notes.db.getCrudTransactions()) {
    if (transaction.crud.at(-1).clientId > known)
      break;
    applied = transaction;
  }
  await applied?.complete();
  const sql = `INSERT OR REPLACE INTO lowtide_upload VALUES ('lineage', lower(hex(randomblob(16))))`;
  await notes.db.execute(sql);
}
function mutation(entry) {
  return {
    n: entry.clientId,
    op: entry.op.toLowerCase(),
    model: entry.table,
    id: entry.id,
    data: entry.opData,
    base: entry.previousValues,
    metadata: entry.metadata
  };
}
function unreadable(entry) {
  const id = entry.id.replaceAll("\0", "\uFFFD");
  return { n: entry.clientId, op: entry.op.toLowerCase(), model: entry.table, id, data: JSON.stringify(entry) };
}
function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

// dist/errors.js
var LowtideError = class extends Error {
  name = "LowtideError";
  /** Stable: the server's code, or one of `LocalCode`. */
  code;
  /** The HTTP status; 0 without an answer. */
  status;
  /** What may help, in plain words; empty when there is nothing to say. */
  hint;
  /** Can the same request succeed later, without a change? */
  retryable;
  /** Milliseconds that the server asks to wait; 0 when it does not say. */
  retryAfter;
  /** The server's whole answer. */
  problem;
  constructor(code, message, details = {}) {
    super(message, details.cause === void 0 ? void 0 : { cause: details.cause });
    this.code = code;
    this.status = details.status ?? 0;
    this.hint = details.hint ?? "";
    this.retryable = details.retryable ?? false;
    this.problem = details.problem ?? {};
    const after = Number(this.problem.retry_after);
    this.retryAfter = after > 0 ? after * 1e3 : 0;
  }
};
function isError(error, ...codes) {
  return error instanceof LowtideError && (codes.length === 0 || codes.includes(error.code));
}
function isTransient(status) {
  return status === 408 || status === 429 || status >= 500 && status !== 501;
}

// dist/events.js
var Events = class {
  #listeners = /* @__PURE__ */ new Set();
  /** Hear of `name`, until the function that is returned is called. */
  on(name, listener) {
    const entry = { name, listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }
  emit(name, event) {
    for (const entry of [...this.#listeners]) {
      if (entry.name !== name)
        continue;
      try {
        entry.listener(event);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
};

// dist/random.js
var DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
function token(bytes = 16) {
  if (typeof globalThis.crypto?.getRandomValues !== "function") {
    throw new LowtideError("unsupported", "There is no source of chance.", {
      hint: "On React Native import 'react-native-get-random-values' before anything else."
    });
  }
  return base64url(globalThis.crypto.getRandomValues(new Uint8Array(bytes)));
}
function base64url(bytes) {
  let text = "";
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8 | byte) & 65535;
    for (bits += 8; bits >= 6; )
      text += DIGITS[held >> (bits -= 6) & 63];
  }
  return bits > 0 ? text + DIGITS[held << 6 - bits & 63] : text;
}
function fromBase64url(text) {
  const clean = text.replace(/=+$/, "");
  const bytes = new Uint8Array(clean.length * 6 >> 3);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (const digit of clean) {
    held = (held << 6 | DIGITS.indexOf(digit)) & 65535;
    if ((bits += 6) >= 8)
      bytes[at++] = held >> (bits -= 8) & 255;
  }
  return bytes;
}
function sha256(text) {
  const data = new TextEncoder().encode(text);
  const padded = new Uint8Array(data.length + 72 >> 6 << 6);
  padded.set(data);
  padded[data.length] = 128;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, data.length * 8);
  const [start, k] = constants();
  const state = start.slice();
  const w = new Uint32Array(64);
  const turn = (x, n) => x >>> n | x << 32 - n;
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++)
      w[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15], w[i - 2]];
      const s0 = turn(x, 7) ^ turn(x, 18) ^ x >>> 3;
      const s1 = turn(y, 17) ^ turn(y, 19) ^ y >>> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const t1 = h + s1 + (e & f ^ ~e & g) + k[i] + w[i] | 0;
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const t2 = s0 + (a & b ^ a & c ^ b & c) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, d + t1 | 0, c, b, a, t1 + t2 | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => state[i] = state[i] + value);
  }
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => out.setUint32(4 * i, value));
  return new Uint8Array(out.buffer);
}
function constants() {
  const [start, k] = [new Uint32Array(8), new Uint32Array(64)];
  for (let found = 0, n = 2; found < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++)
      prime &&= n % d !== 0;
    if (!prime)
      continue;
    if (found < 8)
      start[found] = fraction(Math.sqrt(n));
    k[found++] = fraction(Math.cbrt(n));
  }
  return [start, k];
}
function fraction(root) {
  return Math.floor((root - Math.floor(root)) * 2 ** 32);
}

// dist/http.js
var WORTH = 1024;
var PAUSE = 400;
var Http = class {
  endpoint;
  appVersion;
  #fetch;
  #plain = typeof CompressionStream !== "function";
  // or something on the way does not let compressed bodies through
  #failed = false;
  // had the last compressed one no answer of Lowtide's? The next goes as it is
  #instead = 0;
  // how often in a row one that went as it is, after such a failure, had an answer
  constructor({ endpoint, fetch, appVersion }) {
    this.endpoint = endpoint.replace(/\/+$/, "");
    this.#fetch = fetch ?? ((address, init) => globalThis.fetch(address, init));
    this.appVersion = appVersion;
  }
  /** The answer's body; undefined for 204. Throws a `LowtideError` for anything but success. */
  async send(method, path, sending = {}) {
    const attempts = sending.attempts ?? 1;
    const key = attempts > 1 && method === "POST" ? sending.key ?? token() : void 0;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(method, path, sending, key);
      } catch (error) {
        const again = error instanceof LowtideError && ["network", "timeout", "key_in_flight"].includes(error.code);
        if (!again || attempt >= attempts)
          throw error;
        await pause(PAUSE * 4 ** (attempt - 1) * (0.5 + Math.random()), sending.signal);
      }
    }
  }
  async #once(method, path, sending, key) {
    const text = sending.body === void 0 ? void 0 : JSON.stringify(sending.body);
    if (this.#plain || text === void 0 || text.length < WORTH)
      return this.#exchange(method, path, sending, key, text);
    const packed = !this.#failed;
    this.#failed = false;
    try {
      const answer = await this.#exchange(method, path, sending, key, text, packed);
      this.#heard(packed);
      return answer;
    } catch (error) {
      if (!(error instanceof LowtideError))
        throw error;
      if (["network", "timeout", "not_lowtide"].includes(error.code))
        this.#failed = packed && error.status !== 413;
      else if (error.code !== "aborted")
        this.#heard(packed);
      if (!packed || ![400, 415].includes(error.status))
        throw error;
      const answer = await this.#exchange(method, path, sending, key, text);
      this.#plain = true;
      return answer;
    }
  }
  /** Lowtide has answered. Where it did so twice only once a body went uncompressed, they all do from now on. */
  #heard(packed) {
    this.#instead = packed ? 0 : this.#instead + 1;
    this.#plain ||= this.#instead > 1;
  }
  async #exchange(method, path, sending, key, text, packed = false) {
    const { token: token2, deadline = 3e4, signal } = sending;
    const headers = {};
    if (text !== void 0)
      headers["content-type"] = "application/json";
    if (packed)
      headers["content-encoding"] = "gzip";
    if (token2)
      headers.authorization = `Bearer ${token2}`;
    if (key)
      headers["idempotency-key"] = key;
    if (this.appVersion)
      headers["x-app-version"] = this.appVersion;
    return until([signal], async (end, stop) => {
      const timer = setTimeout(stop, deadline);
      try {
        if (end.aborted)
          throw new Error("aborted");
        const exchange = async () => {
          const response = await this.#fetch(this.endpoint + path, {
            method,
            headers,
            // A redirect is never ours, and would take what is sent to somewhere else.
            redirect: "error",
            signal: end,
            ...text !== void 0 && { body: packed ? await gzip(text) : text }
          });
          return read(response, await response.text(), sending.holds);
        };
        return await settled(exchange(), end);
      } catch (error) {
        if (error instanceof LowtideError && error.code !== "aborted")
          throw error;
        if (signal?.aborted)
          throw new LowtideError("aborted", "The request was given up.", { cause: error });
        const code = end.aborted ? "timeout" : "network";
        const message = end.aborted ? "The server did not answer in time." : "The server cannot be reached.";
        throw new LowtideError(code, message, { retryable: true, cause: error });
      } finally {
        clearTimeout(timer);
      }
    });
  }
};
function gzip(text) {
  return new Response(new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer();
}
function read(response, text, holds) {
  const { ok, status } = response;
  if (status === 204 && !holds)
    return void 0;
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = void 0;
  }
  if (ok && typeof answer === "object" && answer !== null && (holds === void 0 || holds in answer))
    return answer;
  const after = Number(response.headers.get("retry-after"));
  const asked = after > 0 ? { retry_after: after } : {};
  const known = !ok && typeof answer === "object" && answer !== null && typeof answer.code === "string";
  if (!known) {
    throw new LowtideError("not_lowtide", `Something else than Lowtide answered ${status}.`, {
      status,
      retryable: true,
      hint: "Is there a page to sign in to this network, or a proxy in between?",
      problem: asked
    });
  }
  const problem = { ...asked, ...answer };
  throw new LowtideError(problem.code ?? "", problem.detail ?? `The server answered ${status}.`, {
    status,
    hint: problem.hint ?? "",
    retryable: isTransient(status),
    problem
  });
}
var LONGEST = 2 ** 31 - 1;
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      if (signal?.aborted)
        reject(new LowtideError("aborted", "The wait was given up."));
      else
        resolve();
    };
    const timer = setTimeout(end, Math.min(milliseconds, LONGEST));
    if (signal?.aborted)
      end();
    else
      signal?.addEventListener("abort", end, { once: true });
  });
}
async function inTime(deadline, late, signal, work) {
  return until([signal], async (end, stop) => {
    const timer = setTimeout(stop, deadline);
    try {
      return await settled(work(end), end);
    } catch (error) {
      if (end.aborted)
        return late;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  });
}
async function until(signals, work) {
  const end = new AbortController();
  const stop = () => end.abort();
  for (const one of signals) {
    one?.addEventListener("abort", stop);
    if (one?.aborted)
      stop();
  }
  try {
    return await work(end.signal, stop);
  } finally {
    stop();
    for (const one of signals)
      one?.removeEventListener("abort", stop);
  }
}
async function settled(work, signal) {
  if (!signal)
    return work;
  let stop = () => {
  };
  const given = new Promise((_, reject) => {
    stop = () => reject(new LowtideError("aborted", "The wait was given up."));
    if (signal.aborted)
      stop();
    else
      signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, given]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

// dist/passkeys.js
async function chosen(ceremony) {
  const credential = await ceremony.catch((cause) => {
    if (cause instanceof LowtideError)
      throw cause;
    const said = String(cause);
    if (/^(NotAllowed|Abort)|cancel/i.test(said))
      return null;
    if (!said.startsWith("InvalidState"))
      throw new LowtideError("unsupported", "Passkeys do not work here.", { cause });
    throw new LowtideError("not_retryable", "This device has a passkey of this account already.", { cause });
  });
  if (!credential)
    throw new LowtideError("aborted", "No passkey was chosen.");
  return credential;
}
function browserPasskeys(more = {}) {
  const credentials = () => {
    const found = globalThis.navigator?.credentials;
    if (!found)
      throw new LowtideError("unsupported", "Passkeys are not supported here.");
    return found;
  };
  return {
    async create(options) {
      const publicKey = decode(options);
      return encode(await credentials().create({ publicKey, ...more.signal && { signal: more.signal } }));
    },
    async get(options) {
      const publicKey = decode(options);
      return encode(await credentials().get({ publicKey, ...more }));
    }
  };
}
function decode(options) {
  const named = (list) => list?.map((one) => ({ ...one, id: fromBase64url(one.id) }));
  const { challenge, user, excludeCredentials, allowCredentials, ...rest } = options;
  return {
    ...rest,
    challenge: fromBase64url(challenge),
    ...user !== void 0 && { user: { ...user, id: fromBase64url(user.id) } },
    ...excludeCredentials !== void 0 && { excludeCredentials: named(excludeCredentials) },
    ...allowCredentials !== void 0 && { allowCredentials: named(allowCredentials) }
  };
}
function encode(credential) {
  if (!credential)
    return null;
  const { id, rawId, type, response, authenticatorAttachment } = credential;
  const answer = response;
  const text = (bytes) => bytes && base64url(new Uint8Array(bytes));
  const { clientDataJSON, attestationObject, authenticatorData, signature, userHandle } = answer;
  const json = {
    id,
    rawId: text(rawId),
    type,
    authenticatorAttachment: authenticatorAttachment ?? void 0,
    clientExtensionResults: credential.getClientExtensionResults?.() ?? {},
    response: attestationObject ? {
      clientDataJSON: text(clientDataJSON),
      attestationObject: text(attestationObject),
      transports: answer.getTransports?.() ?? []
    } : {
      clientDataJSON: text(clientDataJSON),
      authenticatorData: text(authenticatorData),
      signature: text(signature),
      userHandle: text(userHandle) ?? void 0
    }
  };
  return json;
}

// dist/account.js
var ME = "/v1/auth/me";
var ACCOUNT = "anonymous";
var PASSKEYS = "/v1/auth/passkeys";
var SESSIONS = "/v1/auth/sessions";
var OwnAccount = class {
  #session;
  #passkeys;
  /** @internal A `Session` has one. */
  constructor(session, passkeys = browserPasskeys()) {
    this.#session = session;
    this.#passkeys = passkeys;
  }
  read() {
    return this.#session.request("GET", ME, void 0, { holds: ACCOUNT });
  }
  /** Change the name; null takes it away. */
  async rename(name) {
    const account = await this.#session.request("PATCH", ME, { name }, { holds: ACCOUNT });
    await this.#renew();
    return account;
  }
  /** Where the user is signed in, the newest first. */
  async devices() {
    return this.#list(SESSIONS, "sessions");
  }
  /** Sign one device out; with `wipe` it is asked to delete what it holds, too. */
  async signOutDevice(id, { wipe = false } = {}) {
    await this.#do("DELETE", `${SESSIONS}/${encodeURIComponent(id)}${wipe ? "?wipe=true" : ""}`);
  }
  /** Sign every other device out. */
  async signOutOthers({ wipe = false } = {}) {
    await this.#do("POST", `${SESSIONS}/end-others`, { wipe });
  }
  /** The ways in that the user has. */
  async identities() {
    return this.#list("/v1/auth/identities", "identities");
  }
  /** Take a way in away; never the last one. */
  async unlink({ provider, subject }) {
    await this.#do("DELETE", `/v1/auth/identities/${[provider, subject].map(encodeURIComponent).join("/")}`);
  }
  /** A new password, with the present one unless the user has just signed in. Ends every other session. */
  async changePassword(password, current) {
    await this.#do("PUT", `${ME}/password`, { password, ...current !== void 0 && { current } });
  }
  /** Begin to set up an authenticator app: show `uri` as a QR code, or `secret` to type. */
  enrolSecondFactor() {
    return this.#session.request("POST", `${ME}/second-factor`, void 0, { holds: "secret" });
  }
  /** Put it into force with a code from it. The recovery codes are shown this once. */
  async confirmSecondFactor(code) {
    return this.#codes("confirm", { code });
  }
  /** New recovery codes in place of the old ones. */
  async renewRecoveryCodes() {
    return this.#codes("recovery-codes");
  }
  async removeSecondFactor() {
    await this.#do("DELETE", `${ME}/second-factor`);
  }
  /** Make a passkey on this device. An anonymous user is one no longer, and keeps their id. */
  async addPasskey(name, ceremony = this.#passkeys) {
    const begin = { holds: "publicKey" };
    const begun = await this.#session.request("POST", `${PASSKEYS}/begin`, void 0, begin);
    const credential = await chosen(ceremony.create(begun.publicKey));
    const sending = { attempts: 3, holds: "transports" };
    const passkey = await this.#session.request("POST", PASSKEYS, { credential, name }, sending);
    await this.#renew();
    return passkey;
  }
  async passkeys() {
    return this.#list(PASSKEYS, "passkeys");
  }
  async renamePasskey(id, name) {
    await this.#do("PATCH", `${PASSKEYS}/${encodeURIComponent(id)}`, { name });
  }
  async deletePasskey(id) {
    await this.#do("DELETE", `${PASSKEYS}/${encodeURIComponent(id)}`);
  }
  /** Delete the account. The session ends at the next request, with a wipe. */
  async delete() {
    await this.#do("DELETE", ME);
    await this.#renew();
  }
  /** Fetch what has changed. It is done already: without a network it comes with the next token. */
  async #renew() {
    await this.#session.refresh().catch(() => {
    });
  }
  async #codes(step, body) {
    return this.#list(`${ME}/second-factor/${step}`, "recovery_codes", "POST", body);
  }
  async #list(path, holds, method = "GET", body) {
    return (await this.#session.request(method, path, body, { holds }))[holds];
  }
  async #do(method, path, body) {
    await this.#session.request(method, path, body, { holds: "" });
  }
};

// dist/lock.js
var waiting = /* @__PURE__ */ new Map();
async function locked(name, work) {
  const locks = globalThis.navigator?.locks;
  if (locks)
    return await locks.request(name, work);
  const before = waiting.get(name);
  const mine = (async () => {
    await before?.catch(() => {
    });
    return work();
  })();
  waiting.set(name, mine);
  try {
    return await mine;
  } finally {
    if (waiting.get(name) === mine)
      waiting.delete(name);
  }
}

// dist/sign-in.js
var ATTEMPTS = 3;
var AGAIN = 2e3;
var SignIn = class {
  #session;
  #passkeys;
  /** @internal A `Session` has one. */
  constructor(session, passkeys = browserPasskeys()) {
    this.#session = session;
    this.#passkeys = passkeys;
  }
  /** Begin without a name. Who is signed in already stays so. */
  async anonymous() {
    const { user } = await this.#session.restore().then(() => this.#session);
    if (user)
      return { status: "signed_in", outcome: "signed_in", user, guest: null };
    const body = await this.#session.facts();
    const answer = await this.#session.send("POST", "/v1/auth/anonymous", {
      body,
      attempts: ATTEMPTS,
      holds: "refresh_token"
    });
    return this.#welcome(answer);
  }
  /** Have a code and a link mailed to this address. Show `number` of the flow to who may use the link. */
  async startEmail(email) {
    return this.#start("/v1/auth/email/start", { email });
  }
  /** Finish with the code from the mail. */
  async finishEmail(flow, code, { link } = {}) {
    return this.#once("/v1/auth/email/finish", { flow_id: flow.flow_id, code, link });
  }
  /**
   * Wait until the link in the mail was opened, on whatever device, and the flow's `number` was chosen there. A network
   * that fails meanwhile is waited for, too, until `signal` gives up, or the session is closed. Where the app was closed,
   * or the answer could not be kept (`storage`), call it again with the same flow: it is one sign-in.
   */
  async waitForLink(flow, signal, { link } = {}) {
    return until([signal, this.#session.over], async (end) => {
      for (; ; ) {
        try {
          return await this.#once("/v1/auth/email/finish", { flow_id: flow.flow_id, link }, end);
        } catch (error) {
          const passes = isError(error) && error.retryable && error.code !== "storage";
          if (!passes && !isError(error, "sign_in_pending", "key_in_flight"))
            throw error;
          await pause(Math.max(AGAIN, error.retryAfter), end);
        }
      }
    });
  }
  /** With an address and its password. */
  async password(email, password) {
    return this.#enter("/v1/auth/password", { email, password });
  }
  /** Sign up, or set a new password, with the code from a mail. */
  async setPassword(flow, code, password) {
    return this.#once("/v1/auth/password/set", { flow_id: flow.flow_id, code, password });
  }
  /** Have a code sent to this number. */
  async startSms(phone) {
    return this.#start("/v1/auth/sms/start", { phone });
  }
  /** Finish with the code from the text message. */
  async finishSms(flow, code, { link } = {}) {
    return this.#once("/v1/auth/sms/finish", { flow_id: flow.flow_id, code, link });
  }
  /** The second factor: a code from the authenticator app, or a recovery code. */
  async secondFactor(needed, code) {
    return this.#once("/v1/auth/second-factor", { ticket: needed.ticket, code });
  }
  /** With a passkey; as the second factor, if a sign-in waits for one. */
  async passkey(needed, ceremony = this.#passkeys) {
    const ticket = needed ? { ticket: needed.ticket } : {};
    const path = "/v1/auth/passkeys/sign-in";
    const begin = { body: ticket, holds: "publicKey" };
    const begun = await this.#session.send("POST", `${path}/begin`, begin);
    const credential = await chosen(ceremony.get(begun.publicKey));
    return this.#enter(path, { credential, ...ticket });
  }
  /** A nonce for `idToken`: Apple's and Google's sheets take `hashed` or `raw`, the server takes `raw`. */
  nonce() {
    const raw = token(24);
    const hashed = Array.from(sha256(raw), (byte) => byte.toString(16).padStart(2, "0")).join("");
    return { raw, hashed };
  }
  /** With what the phone's own sheet gave. */
  async idToken(given) {
    return this.#once("/v1/auth/id-token", given);
  }
  /**
   * Begin with an OpenID provider: open `url` in the system's browser, and give the address at which the app is
   * called back to `finishUpstream`. What must be known then is kept: the app may be closed in between.
   * `max_age`: for a step-up, how many seconds ago the user may have signed in there; beyond it they are asked.
   */
  async startUpstream(provider, redirect_uri, login_hint = "", max_age) {
    const [verifier, state] = [token(32), token()];
    await this.#session.note("upstream", JSON.stringify({ verifier, state }));
    const challenge = base64url(sha256(verifier));
    const age = max_age === void 0 ? {} : { max_age: `${max_age}` };
    const query = Object.entries({ redirect_uri, challenge, state, ...login_hint && { login_hint }, ...age }).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
    return { url: `${this.#session.endpoint}/v1/auth/oidc/${encodeURIComponent(provider)}/start?${query}` };
  }
  /** Finish with the address at which the app was called back. Throws the provider's `error` as code. */
  async finishUpstream(address, { link } = {}) {
    const given = /* @__PURE__ */ new Map();
    const kept = await this.#session.note("upstream");
    let begun = {};
    try {
      for (const pair of (/\?([^#]*)/.exec(address)?.[1] ?? "").split("&")) {
        const [name = "", value = ""] = pair.split("=").map((text) => decodeURIComponent(text.replaceAll("+", " ")));
        given.set(name, value);
      }
      begun = JSON.parse(kept ?? "{}");
    } catch {
    }
    const { verifier, state } = begun;
    if (!verifier || given.get("state") !== state) {
      throw new LowtideError("bad_callback", "This is not the way back of the sign-in that was begun here.");
    }
    const refused = given.get("error");
    if (refused) {
      await this.#session.note("upstream", null);
      throw new LowtideError(refused, given.get("error_description") || "The provider did not sign in.");
    }
    const result = await this.#once("/v1/auth/oidc/finish", { code: given.get("code") ?? "", verifier, link });
    await this.#session.note("upstream", null);
    return result;
  }
  /**
   * Make the anonymous account that was left behind (`Welcome.guest`) part of the one that is signed in, with all
   * that was written under it, also what still waits on this device.
   */
  async merge() {
    const session = this.#session;
    await session.restore();
    const guest = session.guest;
    if (!guest)
      throw new LowtideError("not_retryable", "There is no account to merge.");
    const body = { token: guest.token };
    const merged = await session.request("POST", "/v1/auth/merge", body, {
      deadline: 6e4,
      attempts: ATTEMPTS,
      holds: "signed"
    });
    await session.take(merged.signed, guest.user);
    return { records: merged.records, left: merged.left };
  }
  /** Leave the anonymous account behind for good. */
  async forgetGuest() {
    await this.#session.restore();
    await this.#session.forgetGuest();
  }
  async #start(path, given) {
    const { device } = await this.#session.facts();
    const body = { ...given, device };
    return this.#session.send("POST", path, { body, attempts: ATTEMPTS, holds: "flow_id" });
  }
  /**
   * With what counts once: the key is made of it, so that an answer that nobody heard is given again to whoever tries
   * once more, also after minutes, or a start.
   */
  #once(path, given, signal) {
    return this.#enter(path, given, signal, base64url(sha256(path + JSON.stringify(given))));
  }
  async #enter(path, given, signal, once) {
    const answer = await this.#session.authorised(false, async (token2, any) => {
      const key = once ?? any;
      const body = { ...given, ...await this.#session.facts() };
      const sending = { body, token: token2, signal, attempts: ATTEMPTS, key, holds: "expires_in" };
      return this.#session.send("POST", path, sending);
    });
    return answer.status === "second_factor_needed" ? answer : this.#welcome(answer);
  }
  async #welcome(answer) {
    await this.#session.take(answer);
    const { outcome, user } = answer;
    return { status: "signed_in", outcome, user, guest: this.#session.guest?.user ?? null };
  }
};

// dist/storage.js
function memoryStore() {
  const kept = /* @__PURE__ */ new Map();
  return {
    get: async (name) => kept.get(name) ?? null,
    set: async (name, value) => void kept.set(name, value),
    remove: async (name) => void kept.delete(name)
  };
}
function webStore(storage) {
  const kept = () => storage ?? globalThis.localStorage;
  return {
    get: async (name) => kept().getItem(name),
    set: async (name, value) => kept().setItem(name, value),
    remove: async (name) => kept().removeItem(name)
  };
}
function indexedDbStore(database = "lowtide") {
  const run = (mode, work) => new Promise((resolve, reject) => {
    const opening = indexedDB.open(database, 1);
    opening.onupgradeneeded = () => void opening.result.createObjectStore("kept");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const db = opening.result;
      const over = (done) => () => {
        db.close();
        done();
      };
      if (!db.objectStoreNames.contains("kept"))
        return over(() => reject(new Error(`'${database}' is another database.`)))();
      const transaction = db.transaction("kept", mode, { durability: "strict" });
      const request = work(transaction.objectStore("kept"));
      transaction.oncomplete = over(() => resolve(request.result));
      transaction.onabort = over(() => reject(transaction.error));
    };
  });
  return {
    get: async (name) => await run("readonly", (store) => store.get(name)) ?? null,
    set: async (name, value) => void await run("readwrite", (store) => store.put(value, name)),
    remove: async (name) => void await run("readwrite", (store) => store.delete(name))
  };
}
var PART = 1800;
var MOST = 64;
function secureStore(store, options = {}) {
  const part = (name, place, i) => `${name}.${place}.${i}`;
  const read3 = async (name) => {
    const entry = await store.getItemAsync(name, options);
    const [, place = "", count = "0"] = /^parts:([ab]):(\d+)$/.exec(entry ?? "") ?? [];
    return { entry, place, count: Number(count) };
  };
  const clear = async (name, place, from) => {
    const there = (i) => store.getItemAsync(part(name, place, i), options).then((text) => text !== null, () => true);
    let end = from;
    while (end < MOST && await there(end))
      end++;
    while (end-- > from)
      await store.deleteItemAsync(part(name, place, end), options);
  };
  return {
    async get(name) {
      const { entry, place, count } = await read3(name);
      if (!place)
        return entry;
      let text = "";
      for (let i = 0; i < count; i++) {
        const value = await store.getItemAsync(part(name, place, i), options);
        if (value === null)
          throw new LowtideError("storage", `A part of '${name}' is missing in the key store.`);
        text += value;
      }
      return decodeURIComponent(text);
    },
    async set(name, value) {
      const before = await read3(name);
      const place = before.place === "a" ? "b" : "a";
      const text = encodeURIComponent(value);
      const count = Math.ceil(text.length / PART);
      for (let i = 0; i < count; i++) {
        await store.setItemAsync(part(name, place, i), text.slice(i * PART, (i + 1) * PART), options);
      }
      await store.setItemAsync(name, `parts:${place}:${count}`, options);
      await clear(name, place, count);
      if (before.place)
        await clear(name, before.place, 0);
    },
    async remove(name) {
      await store.deleteItemAsync(name, options);
      await clear(name, "a", 0);
      await clear(name, "b", 0);
    }
  };
}
function fileStore(folder) {
  const { process } = globalThis;
  const files = process?.getBuiltinModule?.("node:fs/promises");
  if (!files)
    throw new LowtideError("unsupported", "Files are kept by Node 20.16 or newer only.");
  const path = (name) => `${folder}/${encodeURIComponent(name)}.json`;
  return {
    get: (name) => files.readFile(path(name), "utf8").catch((error) => {
      if (error.code === "ENOENT")
        return null;
      throw error;
    }),
    async set(name, value) {
      await files.mkdir(folder, { recursive: true });
      const file = await files.open(`${path(name)}.new`, "w", 384);
      try {
        await file.writeFile(value);
        await file.sync();
      } finally {
        await file.close();
      }
      await files.rename(`${path(name)}.new`, path(name));
    },
    remove: (name) => files.rm(path(name), { force: true })
  };
}

// dist/session.js
function stillOf(user, tokens) {
  const { identity } = tokens;
  if (user == null || !identity || identity.user === user || identity.former.includes(user))
    return;
  throw new LowtideError("other_user", "Somebody else is signed in now.", {
    hint: "This was begun by the user of before, and was not sent as another."
  });
}
var FAREWELL = 5e3;
var EARLY = 30;
var OVER = ["session_revoked", "invalid_grant"];
var Session = class {
  /** The ways to sign in. */
  signIn;
  /** The user's own account: devices, ways in, password, passkeys. */
  account;
  #http;
  #store;
  #name;
  #device;
  #space;
  #events = new Events();
  #channel;
  #kept = null;
  #ended = null;
  #heard = false;
  #failed = null;
  // of the last refresh that failed
  #restored = null;
  #over = new AbortController();
  #leaving = new AbortController();
  // until somebody signs out
  constructor({ endpoint, store, name = "lowtide.session", device = {}, space = "main", ...rest }) {
    const version = device.platform && device.app_version ? `${device.platform}/${device.app_version}` : void 0;
    this.#http = new Http({ endpoint, fetch: rest.fetch, appVersion: version });
    this.#store = store;
    this.#name = name;
    this.#device = device;
    this.#space = space;
    this.signIn = new SignIn(this, rest.passkeys);
    this.account = new OwnAccount(this, rest.passkeys);
    this.#channel = typeof BroadcastChannel === "function" ? new BroadcastChannel(`${name}@${endpoint}`) : null;
    if (this.#channel) {
      this.#channel.onmessage = () => void this.#locked(() => this.#load()).catch(() => {
      });
      this.#channel.unref?.();
    }
  }
  get endpoint() {
    return this.#http.endpoint;
  }
  /** What the server is told of this version; undefined where the device's facts do not say. */
  get appVersion() {
    return this.#http.appVersion;
  }
  get state() {
    if (!this.#kept)
      return { status: "signed_out", ended: this.#ended };
    const { user, guest } = this.#kept;
    const status = this.#heard ? "authenticated" : "authenticated_offline";
    return { status, user, guest: guest?.user ?? null };
  }
  /** The user who is signed in; null when nobody is. */
  get user() {
    return this.#kept?.user ?? null;
  }
  get identity() {
    return this.#kept && { user: this.#kept.user.id, former: this.#kept.former };
  }
  /** Hear of every change of the state, also those made in another tab. */
  onChange(listener) {
    return this.#events.on("change", listener);
  }
  /** Go on with what is kept, without the network. Throws `storage` when it cannot be read: try again then. */
  async restore() {
    this.#restored ??= this.#load();
    try {
      await this.#restored;
    } catch (error) {
      this.#restored = null;
      throw error;
    }
    return this.state;
  }
  /** An access token that is good for a while; see `TokenSource`. */
  async token(refused) {
    await this.restore();
    const good = (kept) => kept.access_token !== refused && Date.now() < kept.renew_at;
    if (!this.#kept)
      return null;
    if (good(this.#kept))
      return this.#kept.access_token;
    const before = this.#failed;
    return this.#locked(async () => {
      const kept = await this.#load();
      if (!kept || good(kept))
        return kept?.access_token ?? null;
      if (this.#failed !== before && this.#failed)
        throw this.#failed;
      return (await this.#refresh(kept))?.access_token ?? null;
    });
  }
  /** Fetch new tokens now, with what has changed of the user; act in another space from now on, if one is given. */
  async refresh(space) {
    await this.restore();
    await this.#locked(async () => {
      const kept = await this.#load();
      if (kept)
        await this.#refresh(space === void 0 ? kept : { ...kept, space });
    });
    return this.state;
  }
  /** One request as the user. A token that is refused is renewed, and the request sent again. */
  async request(method, path, body, sending = {}) {
    return this.authorised(true, (token2, key) => this.send(method, path, { key, ...sending, body, token: token2 }));
  }
  /**
   * Sign out here. The server hears of it if it can be reached. What the device holds is `Lowtide.signOut`'s: with
   * `wipe` it is to be deleted, now or, after a crash, when it is opened again. Throws `other_user`, and ends nothing,
   * when somebody else has signed in by now, in another tab for example.
   */
  async signOut({ wipe = false, user } = {}) {
    await this.restore();
    const meant = user ?? this.user?.id ?? "";
    stillOf(meant, this);
    const tell = (signal) => this.request("POST", "/v1/auth/sign-out", void 0, { signal, holds: "" });
    await inTime(FAREWELL, void 0, void 0, tell).catch(() => {
    });
    this.#leaving.abort();
    this.#leaving = new AbortController();
    await this.#locked(async () => {
      const kept = await this.#load();
      if (!kept)
        return;
      stillOf(meant, this);
      await this.#end({ code: "signed_out", reason: "", wipe, user: kept.user.id });
    });
  }
  /** @internal What is kept now: another tab may have changed it. */
  async look() {
    await this.#locked(() => this.#load());
    return this.state;
  }
  /** The wipe that was asked for is done. */
  async wiped() {
    await this.#locked(async () => {
      await this.#load();
      if (this.#ended?.wipe)
        await this.#write({ session: null, ended: { ...this.#ended, wipe: false } });
    });
  }
  /**
   * Forget what is kept here, where it cannot be read and never will be: `storage` at each start, because the key store
   * was reset for example. Nobody is signed in then. The database stays whose it is, and goes on once they sign in again.
   */
  async abandon() {
    await this.#locked(async () => {
      for (const name of [this.#name, `${this.#name}.installation`])
        await stored("kept", () => this.#store.remove(name));
      this.#show(null);
      this.#channel?.postMessage("changed");
    });
  }
  /** Stop listening to other tabs, and waiting for a link. What is on its way comes to its end. */
  close() {
    this.#over.abort();
    this.#channel?.close();
    this.#channel = null;
  }
  // What follows is for `SignIn` and `OwnAccount`.
  /** @internal Says so when it is closed. */
  get over() {
    return this.#over.signal;
  }
  /** @internal A request without a user. */
  async send(method, path, sending = {}) {
    try {
      const answer = await this.#http.send(method, path, sending);
      this.#hear(true);
      return answer;
    } catch (error) {
      if (isError(error, "network", "timeout", "not_lowtide"))
        this.#hear(false);
      else if (isError(error) && error.status > 0)
        this.#hear(true);
      throw error;
    }
  }
  /** @internal What is sent with every sign-in. */
  async facts() {
    const installation = this.#device.installation ?? await this.#installation();
    return { device: { installation, ...this.#device }, space: this.#kept?.space ?? this.#space };
  }
  /** @internal `run` with the user's token, and again with a new one, and the same key, if it was refused. */
  async authorised(needed, run) {
    const key = token();
    const user = this.user?.id;
    let token2 = await this.token();
    for (let attempt = 0; ; attempt++) {
      stillOf(user, this);
      if (!token2 && needed)
        throw new LowtideError("not_signed_in", "Nobody is signed in.");
      try {
        return await run(token2, key);
      } catch (error) {
        const stale = isError(error, "token_expired", "unauthorized", "session_revoked") && error.status === 401;
        if (!stale || !token2 || attempt > 0)
          throw error;
        token2 = await this.token(token2);
      }
    }
  }
  /** @internal Keep what a sign-in answered. `merged`: the guest's account is part of it now. */
  async take(answer, merged) {
    whole(answer);
    await this.#locked(async () => {
      const before = await this.#load();
      if (before?.begun === answer.refresh_token && before.refresh_token !== before.begun)
        return;
      const same = before?.user.id === answer.user.id;
      let guest = same ? before.guest : null;
      if (before && !same && before.user.anonymous)
        guest = { token: before.refresh_token, user: before.user.id };
      const former = same ? [...before.former] : [];
      if (merged && !former.includes(merged))
        former.push(merged);
      const space = before?.space ?? this.#space;
      const begun = answer.refresh_token;
      await this.#adopt(answer, { begun, secret: token(), former, guest: merged ? null : guest, space });
    });
  }
  /** @internal The anonymous account that may be merged. */
  get guest() {
    return this.#kept?.guest ?? null;
  }
  /** @internal */
  async forgetGuest() {
    await this.#locked(async () => {
      const kept = await this.#load();
      if (kept?.guest)
        await this.#write({ session: { ...kept, guest: null } });
    });
  }
  /** @internal A text beside the session, for sign-ins that leave the app and come back. */
  async note(name, value) {
    const at = `${this.#name}.${name}`;
    if (value === void 0)
      return stored("read", () => this.#store.get(at));
    await stored("kept", () => value === null ? this.#store.remove(at) : this.#store.set(at, value));
    return value;
  }
  /** A name by chance that only this installation and the server know: strangers' tries do not count against it. */
  #installation() {
    return this.#locked(async () => {
      try {
        return await this.note("installation") ?? await this.note("installation", token()) ?? "";
      } catch {
        return "";
      }
    });
  }
  async #refresh(kept) {
    const { refresh_token, secret, space } = kept;
    try {
      const { signal } = this.#leaving;
      const rotation_id = base64url(sha256(`${secret} ${refresh_token}`));
      const body = { refresh_token, rotation_id, ...space !== this.#space && { space } };
      const answer = whole(await this.send("POST", "/v1/auth/token/refresh", { body, holds: "refresh_token", signal }));
      return await this.#adopt(answer, kept);
    } catch (error) {
      if (!isError(error, ...OVER) || error.status !== 401)
        throw this.#failed = error;
      const { reason, wipe } = error.problem;
      const text = typeof reason === "string" ? reason : "";
      await this.#end({ code: error.code, reason: text, wipe: wipe === true, user: kept.user.id });
      return null;
    }
  }
  async #adopt(answer, rest) {
    const { access_token, refresh_token, session_id, user, expires_in } = answer;
    const renew_at = Date.now() + Math.max(expires_in - EARLY, expires_in * 0.75) * 1e3;
    const kept = { ...rest, access_token, renew_at, refresh_token, session_id, user };
    await this.#write({ session: kept });
    return kept;
  }
  async #end(ended) {
    await this.#write({ session: null, ended });
  }
  async #write(record) {
    await stored("kept", () => this.#store.set(this.#name, JSON.stringify(record)));
    this.#show(record);
    this.#channel?.postMessage("changed");
  }
  async #load() {
    this.#show(read2(await stored("read", () => this.#store.get(this.#name))));
    return this.#kept;
  }
  #show(record) {
    const before = JSON.stringify(this.state);
    this.#kept = record?.session ?? null;
    this.#ended = record?.ended ?? null;
    this.#tell(before);
  }
  #hear(heard) {
    const before = JSON.stringify(this.state);
    this.#heard = heard;
    this.#tell(before);
  }
  #tell(before) {
    if (JSON.stringify(this.state) !== before)
      this.#events.emit("change", this.state);
  }
  #locked(work) {
    return locked(`${this.#name}@${this.endpoint}`, work);
  }
};
async function stored(done, work) {
  try {
    return await work();
  } catch (cause) {
    throw new LowtideError("storage", `The session could not be ${done}.`, { retryable: true, cause });
  }
}
function whole(answer) {
  const { access_token, refresh_token, expires_in = 0, user } = answer;
  if (access_token && refresh_token && expires_in > 0 && user?.id)
    return answer;
  throw new LowtideError("not_lowtide", "The sign-in was answered with less than a session.", { retryable: true });
}
function read2(text) {
  try {
    const record = JSON.parse(text ?? "null");
    if (typeof record !== "object" || record === null)
      return null;
    if (record.session === null)
      return typeof record.ended === "object" ? record : null;
    const { refresh_token, secret, user } = record.session ?? {};
    return refresh_token && secret && user?.id ? record : null;
  } catch {
    return null;
  }
}

// dist/connector.js
var MAX_ATTEMPTS = 24;
var AUDIT_EVERY = 24 * 3600 * 1e3;
var DEADLINE = 6e4;
var FIRST_PAUSE = 2e3;
var LONGEST_PAUSE = 12e4;
var UNREADABLE = [400, 413, 422];
var SMALL = 65536;
var AUDIT = `
  SELECT b.name, CAST(b.last_op AS TEXT) AS after, count(o.op_id) AS count,
    coalesce(sum(o.op_id % 1000000007), 0) AS ops,
    coalesce(sum(length(o.data)), 0) AS length,
    coalesce(sum(unicode(substr(o.data, 1 + o.op_id % length(o.data), 1))
      + 31 * unicode(substr(o.data, 1 + o.op_id / 7 % length(o.data), 1))), 0) AS sample
  FROM ps_buckets b LEFT JOIN ps_oplog o ON o.bucket = b.id
  WHERE b.name != '$local' GROUP BY b.id LIMIT 1000`;
var LowtideConnector = class {
  #http;
  #tokens;
  #auditEvery;
  #events = new Events();
  #given;
  // the token that the SDK has
  #owner = null;
  // whose data the database holds, when it was last looked
  #notes = null;
  #most = MAX_MUTATIONS;
  // transactions in the next batch
  #spoilt = { first: 0, times: 0 };
  #failures = 0;
  #notBefore = 0;
  #failed;
  #asked = false;
  // in this connection: which version is wanted
  #audited = 0;
  #uploading = Promise.resolve();
  #quiet = null;
  #over = new AbortController();
  constructor(options) {
    this.#http = new Http(options);
    this.#auditEvery = options.auditEvery ?? AUDIT_EVERY;
    this.#events.on("refused", (event) => options.onRefused?.(event));
    this.#events.on("merged", (event) => options.onMerged?.(event));
    this.#events.on("upload", (event) => options.onUpload?.(event));
    this.#events.on("outdated", (event) => options.onOutdated?.(event));
    this.#events.on("error", (event) => options.onError?.(event));
    this.#tokens = typeof options.tokens === "function" ? called(options.tokens) : options.tokens;
  }
  get endpoint() {
    return this.#http.endpoint;
  }
  /** What the server is told of this version. */
  get appVersion() {
    return this.#http.appVersion;
  }
  /** Before the first write: notes when each change is made from now on. */
  async prepare(db) {
    const notes = new Notes(db);
    await notes.setUp();
    if (await notes.get("audited") === null)
      await notes.set("audited", String(Date.now()));
    this.#audited = Number(await notes.get("audited"));
    this.#notes = notes;
    let before = false;
    this.#quiet?.();
    this.#quiet = db.registerListener({
      statusChanged: ({ connected, downloading, downloadError }) => {
        if (downloadError?.message.includes("app_too_old"))
          void this.#ask();
        if (connected && !before)
          this.hurry();
        before = connected;
        if (!connected || downloading || Math.abs(Date.now() - this.#audited) < this.#auditEvery)
          return;
        this.#audited = Date.now();
        void this.audit(db).catch((error) => this.#events.emit("error", error));
      }
    });
  }
  /** The SDK was told that the app is too old, but not in what words: each of its transports has its own. */
  async #ask() {
    if (this.#asked)
      return;
    this.#asked = true;
    try {
      await this.#http.send("GET", "/v1/sync/conflicts");
    } catch (error) {
      if (!isError(error, "app_too_old")) {
        this.#asked = false;
        return;
      }
      const { minimum, store } = error.problem;
      this.#events.emit("outdated", { minimum: String(minimum), store: String(store ?? "") });
    }
  }
  /** Give up the upload that is on its way. It is sent again, and counts once, unless the database is emptied. */
  abort() {
    this.#over.abort();
    this.#over = new AbortController();
  }
  /** Let go of the database. */
  close() {
    this.abort();
    this.#quiet?.();
    this.#quiet = null;
  }
  /**
   * Has the server compare what this device holds: once a day by itself. What differs is downloaded anew and
   * replaced at one checkpoint. Gives the names of the buckets that differed.
   */
  async audit(db) {
    const body = { client_id: await db.getClientId(), buckets: await db.getAll(AUDIT) };
    const { diverged } = await this.request("POST", "/v1/sync/audit", {
      body,
      deadline: DEADLINE,
      holds: "diverged"
    });
    this.#audited = Date.now();
    await new Notes(db).set("audited", String(this.#audited));
    return diverged;
  }
  /**
   * The database is the present user's from now on. Says no, and changes nothing, when it holds another user's data:
   * unless that user has become this one, by a merge of accounts.
   */
  async claim(db) {
    const { user } = this.#tokens.identity ?? {};
    if (user === void 0)
      return true;
    if (!await this.#mine(new Notes(db)))
      return false;
    if (this.#owner !== user)
      await this.disown(db, user);
    return true;
  }
  /** The database is this user's, or nobody's, whoever's it was: after it was emptied. */
  async disown(db, user) {
    this.begin();
    await new Notes(db).set("owner", user);
  }
  /** A new connection begins, or another user: no token of before is used again. */
  begin() {
    this.#asked = false;
    this.#given = void 0;
    this.#tokens.forget?.();
  }
  async fetchCredentials() {
    const token2 = await this.#tokens.token(this.#given);
    this.#given = token2 ?? void 0;
    if (token2 === null)
      return null;
    if (this.#notes)
      await this.#check(this.#notes);
    return { endpoint: this.#http.endpoint, token: token2 };
  }
  /** Called by the SDK while there is something to upload. Throws to be called again after a pause. */
  async uploadData(db) {
    return this.upload(db, this.#over.signal);
  }
  /** The same until `signal` gives up; one at a time. */
  async upload(db, signal) {
    const mine = this.#uploading.catch(() => {
    }).then(() => this.#try(db, signal));
    this.#uploading = mine;
    return mine;
  }
  async #try(db, signal) {
    if (signal?.aborted)
      throw new LowtideError("aborted", "The upload was given up before its turn.");
    if (Date.now() < this.#notBefore && this.#notBefore - Date.now() <= 2 * LONGEST_PAUSE) {
      throw new LowtideError("waiting", "The upload waits before it tries again.", {
        retryable: true,
        cause: this.#failed
      });
    }
    try {
      await this.#upload(new Notes(db), signal);
      this.hurry();
    } catch (error) {
      if (isError(error, "not_signed_in", "other_user", "aborted"))
        throw error;
      this.#failed = error;
      const grown = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(this.#failures++, 10));
      const asked = isError(error) ? Math.min(error.retryAfter, LONGEST_PAUSE) : 0;
      this.#notBefore = Date.now() + asked + grown * (0.5 + Math.random() / 2);
      throw error;
    }
  }
  /** Try again at the next occasion: the network is back, or the user asks. */
  hurry() {
    this.#failures = 0;
    this.#notBefore = 0;
  }
  /**
   * One request as the user, repeated once with a new token if the first was refused. Throws `other_user`, and is not
   * sent, when somebody else is signed in by then.
   */
  async request(method, path, sending = {}) {
    return this.#request(method, path, sending, this.#tokens.identity?.user);
  }
  async #request(method, path, sending, user) {
    const token2 = await settled(this.#token(user), sending.signal);
    const call = { key: token(), ...sending };
    try {
      return await this.#http.send(method, path, { ...call, token: token2 });
    } catch (error) {
      if (!isError(error) || error.status !== 401)
        throw error;
      return this.#http.send(method, path, { ...call, token: await settled(this.#token(user, token2), sending.signal) });
    }
  }
  async #token(user, refused) {
    const token2 = await this.#tokens.token(refused);
    if (!token2)
      throw new LowtideError("not_signed_in", "Nobody is signed in.");
    stillOf(user, this.#tokens);
    return token2;
  }
  async #upload(notes, signal) {
    let gap = false;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const signedIn = this.#tokens.identity?.user;
      await this.#check(notes);
      const user = signedIn ?? this.#owner;
      const batch = await nextBatch(notes, this.#most, this.#spoilt);
      if (!batch)
        return;
      try {
        await this.#check(notes);
        const body = { ...batch.body, ...gap && { gap } };
        const sending = { body, deadline: DEADLINE, signal, holds: "results" };
        const answer = await this.#request("POST", "/v1/sync/batches", sending, user);
        if (!(answer.last >= batch.last && Array.isArray(answer.results))) {
          throw new LowtideError("not_lowtide", "The upload was answered with less.", { status: 200, retryable: true });
        }
        this.#events.emit("upload", { status: 200, code: "" });
        await batch.complete();
        this.#most = Math.min(MAX_MUTATIONS, this.#most * 2);
        this.#tell(batch, answer);
        return;
      } catch (error) {
        if (!isError(error))
          throw error;
        this.#events.emit("upload", { status: error.status, code: error.code });
        const ours = error.code !== "not_lowtide" || error.status === 413 && batch.bytes > SMALL;
        const unreadable2 = ours && UNREADABLE.includes(error.status);
        const times = this.#spoilt.first === batch.first ? this.#spoilt.times : 0;
        if (error.code === "batch_gap" && !gap)
          gap = true;
        else if (error.code === "batch_repeated")
          await beginLineage(notes, Number(error.problem.known));
        else if (unreadable2 && batch.count > 1)
          this.#most = batch.count >> 1;
        else if (unreadable2 && times < 2)
          this.#spoilt = { first: batch.first, times: times + 1 };
        else
          throw error;
      }
    }
    throw new LowtideError("not_lowtide", "The upload does not get through.", { retryable: true });
  }
  #tell(batch, answer) {
    const of = (n) => ({ n, model: batch.entries.get(n)?.table ?? "", id: batch.entries.get(n)?.id ?? "" });
    const refused = [];
    const merged = [];
    for (const { n, status, code = "", message = "", hint = "", conflicts = [] } of answer.results) {
      if (status === "refused")
        refused.push({ ...of(n), code, message, hint });
      if (status === "merged" && !of(n).model.startsWith("lowtide_"))
        merged.push({ ...of(n), fields: conflicts });
    }
    if (refused.length > 0)
      this.#events.emit("refused", refused);
    if (merged.length > 0)
      this.#events.emit("merged", merged);
  }
  /** Is the database the present user's, or nobody's? Another tab may have emptied it: it is looked at each time. */
  async #mine(notes) {
    this.#owner = await notes.get("owner") || null;
    const identity = this.#tokens.identity;
    if (!identity || this.#owner === null)
      return true;
    return this.#owner === identity.user || identity.former.includes(this.#owner);
  }
  /** What one user wrote is never sent as another's. */
  async #check(notes) {
    if (await this.#mine(notes))
      return;
    throw new LowtideError("other_user", "The database holds the data of another user.", {
      hint: "Merge the accounts, sign in as that user, or throw away what was not sent."
    });
  }
};
function called(ask) {
  let last = null;
  let times = 0;
  return {
    async token(refused) {
      if (refused === void 0 && last)
        return last;
      const before = times;
      const token2 = await ask();
      if (times === before)
        last = token2;
      return token2;
    },
    forget() {
      times++;
      last = null;
    }
  };
}

// dist/feeds.js
var TABLE = "lowtide_rejections";
var Rejections = class {
  #db;
  constructor(db) {
    this.#db = db;
  }
  /** All that were not dismissed, the oldest first. */
  async list() {
    return (await this.#db.getAll(`SELECT * FROM ${TABLE} ORDER BY at, n`)).map(rejection);
  }
  /** The list, and again whenever it changes, until `signal` ends it. */
  async *watch(signal) {
    const options = { tables: [TABLE], triggerImmediate: true, ...signal && { signal } };
    for await (const _ of this.#db.onChange(options))
      yield await this.list();
  }
  /** It is settled: forget it, here and on the server. */
  async dismiss(...ids) {
    await this.#db.execute(`DELETE FROM ${TABLE} WHERE id IN (${ids.map(() => "?").join(", ")})`, ids);
  }
  /**
   * Make the same change once more, with what is different in `changed`, and dismiss the refusal: in one transaction. It
   * meets what others did meanwhile as the first try would have: an increment is added to theirs, an element of a set
   * put beside theirs. Until the server has answered, the record shows here what was refused. Throws `not_retryable`,
   * and the refusal stays, where nothing would be sent.
   */
  async retry(id, changed = {}) {
    await new Notes(this.#db).setUp();
    await this.#db.writeTransaction(async (tx) => {
      const row = await tx.getOptional(`SELECT * FROM ${TABLE} WHERE id = ?`, [id]);
      if (!row)
        throw new LowtideError("not_found", "There is no such refusal.", { status: 404 });
      const known = this.#db.schema.tables.find((table) => table.name === row.model);
      const refused = rejection(row);
      if (!known || !["put", "patch", "delete"].includes(refused.op) || refused.op !== "delete" && !refused.data) {
        throw new LowtideError("not_retryable", "This change cannot be made once more by itself.");
      }
      await write(tx, known.viewName, refused, changed);
      await tx.execute(`DELETE FROM ${TABLE} WHERE id = ?`, [id]);
    });
  }
};
async function write(tx, table, refused, changed) {
  const name = quoted(table);
  if (refused.op === "delete") {
    await tx.execute(`DELETE FROM ${name} WHERE id = ?`, [refused.record]);
    return;
  }
  const data = Object.entries({ ...refused.data, ...changed }).map(([field, value]) => [field, scalar(value)]);
  const fields = data.map(([field]) => quoted(field));
  const values = data.map(([, value]) => value);
  if (refused.metadata !== null) {
    fields.push("_metadata");
    values.push(refused.metadata);
  }
  const there = await tx.getOptional(`SELECT 1 FROM ${name} WHERE id = ?`, [refused.record]);
  if (there) {
    const sets = fields.map((field) => `${field} = ?`).join(", ");
    const update = () => tx.execute(`UPDATE ${name} SET ${sets} WHERE id = ?`, [...values, refused.record]);
    const nothing = refused.op === "put" ? Object.fromEntries(data.map(([field]) => [field, null])) : null;
    const base = refused.base ?? nothing;
    const sent = await Notes.as(tx, base && { data: Object.fromEntries(data), base }, update);
    if (!sent)
      throw new LowtideError("not_retryable", "The record is so already: nothing would be sent.");
  } else if (refused.op === "put") {
    const sql = `INSERT INTO ${name}(id, ${fields.join(", ")}) VALUES (?${", ?".repeat(fields.length)})`;
    await tx.execute(sql, [refused.record, ...values]);
  } else {
    throw new LowtideError("not_retryable", "The record that was to be changed is not there any more.");
  }
}
var Conflicts = class {
  #connector;
  constructor(connector) {
    this.#connector = connector;
  }
  /** The values of a record that lost, the newest first, page by page. Needs the network. */
  async *of(model, id) {
    for (let before = ""; ; ) {
      const query = Object.entries({ model, id, limit: "50", ...before && { before } }).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
      const path = `/v1/sync/conflicts?${query}`;
      const { conflicts } = await this.#connector.request("GET", path, { holds: "conflicts" });
      yield* conflicts;
      if (conflicts.length < 50)
        return;
      before = conflicts.at(-1).id;
    }
  }
  /** Write the lost value back, as the user: it comes to every device like any change. */
  async restore(id) {
    const sending = { body: {}, attempts: 3, holds: "lost_at" };
    return this.#connector.request("POST", `/v1/sync/conflicts/${encodeURIComponent(id)}/restore`, sending);
  }
};
function rejection(row) {
  const json = (text) => JSON.parse(text ?? "null");
  return {
    id: row.id ?? "",
    at: Date.parse(row.at ?? ""),
    code: row.code ?? "",
    message: row.message ?? "",
    hint: row.hint ?? "",
    op: row.op ?? "",
    model: row.model ?? "",
    record: row.record_id,
    data: json(row.data),
    base: json(row.base),
    metadata: row.metadata
  };
}
function scalar(value) {
  if (typeof value === "boolean")
    return Number(value);
  return typeof value === "object" && value !== null ? JSON.stringify(value) : value;
}
function quoted(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

// dist/functions.js
var ATTEMPTS2 = 3;
var COMMANDS = "lowtide_commands";
var REJECTIONS = "lowtide_rejections";
var Command = class {
  id;
  #db;
  constructor(db, id) {
    this.id = id;
    this.#db = db;
  }
  async status() {
    return (await this.#look()).status;
  }
  /**
   * What the function returned, when it has: minutes or days later. Throws the function's own refusal as a
   * `LowtideError`; `signal` gives up the wait, not the command.
   */
  async result(signal) {
    return until([signal], async (end) => {
      const tables = [COMMANDS, REJECTIONS].filter((name) => this.#db.schema.tables.some((table) => table.name === name));
      const options = { tables, signal: end, triggerImmediate: true, throttleMs: 0 };
      if (!end.aborted) {
        for await (const _ of this.#db.onChange(options)) {
          const { status, row, refused } = await this.#look();
          if (status === "done")
            return JSON.parse(row?.result ?? "null");
          if (status === "failed")
            throw failure(row?.error ?? null, refused);
        }
      }
      throw new LowtideError("aborted", "The wait was given up; the command goes on.");
    });
  }
  /** Forget the command and its result, here and on the server. One that was not sent yet is not run. */
  async dismiss() {
    await this.#db.execute(`DELETE FROM ${COMMANDS} WHERE id = ?`, [this.id]);
  }
  async #look() {
    const row = await this.#db.getOptional(`SELECT * FROM ${COMMANDS} WHERE id = ?`, [this.id]);
    if (row) {
      const known = row.status === "pending" || row.status === "done" || row.status === "failed";
      return { status: known ? row.status : "waiting", row, refused: null };
    }
    const tables = this.#db.schema.tables.map((table) => table.name);
    const sql = `SELECT code, message, hint FROM ${REJECTIONS} WHERE model = '${COMMANDS}' AND record_id = ?`;
    const refused = tables.includes(REJECTIONS) ? await this.#db.getOptional(sql, [this.id]) : null;
    return { status: "failed", row: null, refused };
  }
};
var ServerFunctions = class {
  #db;
  #connector;
  constructor(db, connector) {
    this.#db = db;
    this.#connector = connector;
  }
  /** Call it now. Needs the network; an answer that is lost on the way is asked for again, and it runs once. */
  async call(name, args) {
    const path = `/v1/functions/${encodeURIComponent(name)}`;
    const sending = { body: args, deadline: 6e4, attempts: ATTEMPTS2, holds: "result" };
    return (await this.#connector.request("POST", path, sending)).result;
  }
  /** Have it run when the network allows: kept on this device, sent in order with all other changes. */
  async command(name, args) {
    const { id } = await this.#db.get("SELECT uuid() AS id");
    await this.#db.execute(`INSERT INTO ${COMMANDS}(id, name, args) VALUES (?, ?, ?)`, [id, name, JSON.stringify(args)]);
    return new Command(this.#db, id);
  }
  /** A command of before, by its id. */
  find(id) {
    return new Command(this.#db, id);
  }
};
function failure(error, refused) {
  const told = refused ?? JSON.parse(error ?? "null");
  if (!told)
    return new LowtideError("not_found", "There is no such command.", { status: 404 });
  return new LowtideError(told.code, told.message, { hint: told.hint ?? "", problem: { ...told, hint: told.hint ?? "" } });
}

// dist/connection.js
var GRACE = 25e3;
var RETRY = 5e3;
var COALESCE = 1e3;
var SPREAD = 2e3;
var Connection = class {
  #db;
  #connector;
  #watch;
  #tell;
  #options = {};
  #wanted = false;
  #shown = "";
  // the parameters that the present connection was made with; empty without one
  #online = true;
  #leaving = null;
  #spreading = null;
  #stop = null;
  #work = Promise.resolve();
  /** `tell` hears of what fails while nobody waits for it. */
  constructor(db, connector, watch, tell) {
    this.#db = db;
    this.#connector = connector;
    this.#watch = watch;
    this.#tell = tell;
  }
  /** Is a connection wanted and allowed now? It may still be on its way. */
  get active() {
    return this.#shown !== "";
  }
  async connect(options = {}) {
    this.#options = options;
    this.#wanted = true;
    this.#online = this.#watch.now().online;
    this.#stop ??= this.#watch.subscribe(() => this.#changed());
    this.#shown = "";
    await this.#settle();
  }
  async disconnect() {
    this.#wanted = false;
    this.#rest();
    await this.#settle();
  }
  /**
   * Sends what waits, connected or not. Says whether everything has gone, after `deadline` milliseconds at the
   * latest, whatever hangs: the network, the database, or `open`, which is waited for first.
   */
  flush(deadline = GRACE, signal, open = async () => {
  }) {
    return inTime(deadline, false, signal, async (end) => {
      await open();
      return this.#send(end);
    });
  }
  async #send(end) {
    const notes = new Notes(this.#db);
    while (await notes.waiting() > 0) {
      if (end.aborted)
        return false;
      this.#connector.hurry();
      try {
        await this.#connector.upload(this.#db, end);
      } catch (error) {
        if (!isError(error) || !error.retryable)
          return false;
        await pause(Math.max(RETRY / 5, error.retryAfter), end).catch(() => {
        });
      }
    }
    return true;
  }
  #changed() {
    const { online, visible } = this.#watch.now();
    if (online && !this.#online)
      this.#back().catch(this.#tell);
    this.#online = online;
    if (visible) {
      this.#leaving?.abort();
      this.#leaving = null;
    } else if (this.#pausing && !this.#leaving && this.#shown) {
      this.#leave().catch(this.#tell);
    }
    this.#settle().catch(this.#tell);
  }
  get #pausing() {
    return (this.#options.background ?? this.#watch.background) === "pause";
  }
  /** The app has gone to the background: finish, then disconnect. */
  async #leave() {
    const leaving = this.#leaving = new AbortController();
    await this.flush(this.#options.grace ?? GRACE, leaving.signal).catch(() => false);
    if (leaving.signal.aborted)
      return;
    this.#leaving = null;
    await this.#settle();
  }
  /** The network is back: not all devices in the same moment. */
  async #back() {
    this.#spreading?.abort();
    const spreading = this.#spreading = new AbortController();
    try {
      await pause(Math.random() * SPREAD, spreading.signal);
    } catch {
      return;
    }
    this.#connector.hurry();
    if (this.#wanted && !this.#db.connected) {
      this.#shown = "";
      await this.#settle();
    }
  }
  #rest() {
    this.#leaving?.abort();
    this.#spreading?.abort();
    this.#leaving = this.#spreading = null;
    this.#stop?.();
    this.#stop = null;
  }
  /** Connect or disconnect, until it is as it is to be. */
  #settle() {
    const next = this.#work.then(() => this.#apply());
    this.#work = next.catch(() => {
    });
    return next;
  }
  async #apply() {
    const { metered, visible } = this.#watch.now();
    const { metered: manner = "defer", sync = {} } = this.#options;
    const hidden = !visible && this.#pausing && !this.#leaving;
    if (!this.#wanted || hidden || metered && manner === "pause") {
      if (this.#shown || !this.#wanted)
        await this.#db.disconnect();
      this.#shown = "";
      return;
    }
    const params = { ...sync.params, ...manner === "defer" && { metered } };
    const version = this.#connector.appVersion;
    const shown = JSON.stringify(params);
    if (this.#shown === shown)
      return;
    this.#shown = shown;
    this.#connector.begin();
    try {
      await this.#db.connect(this.#connector, {
        retryDelayMs: RETRY * (0.5 + Math.random()),
        crudUploadThrottleMs: COALESCE,
        ...sync,
        appMetadata: { ...version && { app_version: version }, ...sync.appMetadata },
        params
      });
    } catch (error) {
      this.#shown = "";
      throw error;
    }
  }
};

// dist/surroundings.js
function browserSurroundings() {
  const { navigator, document: document2 } = globalThis;
  const network = navigator.connection;
  const places = [
    [globalThis.window, "online"],
    [globalThis.window, "offline"],
    [document2, "visibilitychange"],
    [network, "change"]
  ];
  return {
    background: "stay",
    // tabs share one connection
    now: () => ({
      online: navigator.onLine,
      metered: network?.saveData === true || network?.type === "cellular",
      visible: document2.visibilityState !== "hidden"
    }),
    subscribe(listener) {
      for (const [target, name] of places)
        target?.addEventListener(name, listener);
      return () => {
        for (const [target, name] of places)
          target?.removeEventListener(name, listener);
      };
    }
  };
}
function nativeSurroundings(netInfo, appState) {
  let [online, metered] = [true, false];
  return {
    background: "pause",
    now: () => ({ online, metered, visible: appState.currentState !== "background" }),
    subscribe(listener) {
      const stop = netInfo?.addEventListener((state) => {
        online = state.isConnected !== false;
        metered = state.details?.isConnectionExpensive === true;
        listener();
      });
      const shown = appState.addEventListener("change", listener);
      return () => {
        stop?.();
        shown.remove();
      };
    }
  };
}
function constantSurroundings() {
  return { background: "stay", now: () => ({ online: true, metered: false, visible: true }), subscribe: () => () => {
  } };
}
function surroundings() {
  const page = typeof document === "object" && typeof window === "object" && typeof window.addEventListener === "function";
  return page ? browserSurroundings() : constantSurroundings();
}

// dist/lowtide.js
var Lowtide = class {
  connector;
  /** Changes that were refused. */
  rejections;
  /** Values that lost a conflict. */
  conflicts;
  functions;
  #db;
  #session;
  #connection;
  #events = new Events();
  #unsubscribe;
  #opened = null;
  #asked = null;
  // by the app, for when the database is open
  #wanted = null;
  #over = new AbortController();
  // until it is closed
  #user = null;
  /** `db`: the SDK's database, of whatever platform. */
  constructor(db, options) {
    const { tokens, fetch, appVersion, auditEvery } = options;
    this.#db = db;
    this.#session = tokens instanceof Session ? tokens : null;
    const endpoint = options.endpoint ?? this.#session?.endpoint;
    if (!endpoint)
      throw new TypeError("Lowtide needs an endpoint.");
    this.connector = new LowtideConnector({
      endpoint,
      tokens,
      fetch,
      appVersion: appVersion ?? this.#session?.appVersion,
      ...auditEvery !== void 0 && { auditEvery },
      onRefused: (event) => this.#events.emit("refused", event),
      onMerged: (event) => this.#events.emit("merged", event),
      onUpload: (event) => this.#events.emit("upload", event),
      onOutdated: (event) => this.#events.emit("outdated", event),
      onError: (error) => this.#tell(error)
    });
    this.rejections = new Rejections(db);
    this.conflicts = new Conflicts(this.connector);
    this.functions = new ServerFunctions(db, this.connector);
    this.#connection = new Connection(db, this.connector, options.surroundings ?? surroundings(), (error) => this.#tell(error));
  }
  on(name, listener) {
    return this.#events.on(name, listener);
  }
  /** Before the first write. Needs no network. */
  async open() {
    const opened = this.#opened ??= (async () => {
      this.#unsubscribe ??= this.#session?.onChange(() => void this.#follow());
      await this.#session?.restore();
      await this.connector.prepare(this.#db);
      await this.#wipe();
    })();
    try {
      await opened;
    } catch (error) {
      if (this.#opened === opened)
        this.#opened = null;
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
  async connect(options = {}) {
    this.#asked = options;
    await this.open();
    if (this.#asked !== options)
      return;
    this.#wanted = options;
    await this.#start();
  }
  async disconnect() {
    this.#asked = this.#wanted = null;
    await this.#connection.disconnect();
  }
  /** Sends what waits, for `deadline` milliseconds at most: for a task in the background. Has everything gone? */
  flush(deadline) {
    return this.#connection.flush(deadline, this.#over.signal, () => this.open());
  }
  /** How many changes wait to be sent. */
  async waiting() {
    await this.open();
    return new Notes(this.#db).waiting();
  }
  /** Call a function of the server now. */
  call(name, args) {
    return this.functions.call(name, args);
  }
  /** Have a function of the server run when the network allows. */
  command(name, args) {
    return this.functions.command(name, args);
  }
  /**
   * Sign out, and empty the database; if the app is closed in the middle of it, the next `open()` does. Throws
   * `unsent_changes`, and does nothing, while changes wait that were not sent, unless `discard` throws them away.
   * Throws `other_user`, and takes nothing from them, when somebody else has signed in by now in another tab.
   */
  async signOut({ discard = false } = {}) {
    await this.open();
    const user = this.#session?.user?.id ?? "";
    const waiting2 = await this.waiting();
    if (waiting2 > 0 && !discard) {
      throw new LowtideError("unsent_changes", `${waiting2} changes were not sent yet.`, {
        hint: "Connect and call flush(), or sign out with { discard: true }."
      });
    }
    await this.#connection.disconnect();
    const whose = await this.#whose();
    try {
      await this.#session?.signOut({ wipe: true, user });
    } catch (error) {
      if (this.#wanted && this.#session?.user?.id === user)
        await this.#connection.connect(this.#wanted);
      throw error;
    }
    if (await this.#wipe())
      return;
    await this.#alone(async () => {
      if (await this.#whose() !== whose)
        return;
      await this.#empty();
      this.#user = null;
    });
    await this.#follow();
  }
  /**
   * Empty the database for the user who is signed in now; what another one had not sent is lost. Does nothing where it
   * is this user's already: another tab may have been first.
   */
  async discardOther() {
    await this.open();
    await this.#connection.disconnect();
    await this.#alone(async () => {
      if (!await this.connector.claim(this.#db))
        await this.#empty();
    });
    if (this.#wanted)
      await this.#start();
  }
  /** Disconnect, and let go of everything but the database, until it is opened or connected again. */
  async close() {
    const opened = this.#opened;
    this.#opened = null;
    this.#over.abort();
    this.#over = new AbortController();
    this.#unsubscribe?.();
    this.#unsubscribe = void 0;
    const release = () => {
      if (!this.#opened)
        this.connector.close();
    };
    release();
    opened?.then(release, release);
    await this.disconnect();
  }
  async #start() {
    const user = this.#session?.user?.id ?? null;
    if (this.#session && user === null)
      return;
    await this.#alone(async () => {
      if (await this.connector.claim(this.#db))
        return;
      if (await new Notes(this.#db).waiting() > 0) {
        throw new LowtideError("other_user", "The database holds changes of another user that were not sent.", {
          hint: "Merge the accounts, sign in as that user, or call discardOther()."
        });
      }
      await this.#empty();
      await this.connector.claim(this.#db);
    });
    this.#user = user;
    if (this.#wanted)
      await this.#connection.connect(this.#wanted);
  }
  /** The session has changed, here or in another tab. */
  async #follow() {
    if (!this.#opened)
      return;
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
  #tell(error) {
    const told = isError(error) ? error : new LowtideError("storage", "The database failed.", { cause: error });
    this.#events.emit("error", told);
  }
  /** Empty the database if the session ended so; says whether it did. */
  async #wipe() {
    const wanted = (state = this.#session?.state) => state?.status === "signed_out" && state.ended?.wipe ? state.ended : null;
    if (!wanted())
      return false;
    return this.#alone(async () => {
      const ended = wanted(await this.#session?.look());
      if (!ended)
        return false;
      await this.#empty();
      await this.#session?.wiped();
      if (ended.code !== "signed_out")
        this.#events.emit("wiped", { user: ended.user });
      return true;
    });
  }
  /** The user whose the database is; empty: nobody's. */
  async #whose() {
    return await new Notes(this.#db).get("owner") || (this.#session?.user?.id ?? "");
  }
  /** One tab at a time: the second finds what the first has left. Other databases wait for nobody. */
  #alone(work) {
    return locked(`lowtide.data@${this.connector.endpoint} ${this.#db.database.name}`, work);
  }
  async #empty() {
    this.connector.abort();
    await this.#db.disconnectAndClear();
    this.connector.hurry();
    await this.connector.disown(this.#db, this.#session?.user?.id ?? "");
  }
};
export {
  Command,
  Conflicts,
  Lowtide,
  LowtideConnector,
  LowtideError,
  Rejections,
  ServerFunctions,
  Session,
  browserPasskeys,
  browserSurroundings,
  fileStore,
  indexedDbStore,
  isError,
  memoryStore,
  nativeSurroundings,
  secureStore,
  webStore
};
