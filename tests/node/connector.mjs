// The connector between a client SDK and Lowtide: who is signed in, and how local changes get to the
// server. Copy it into an app; it needs nothing but `fetch`. The schema's tables are to have
// `trackPrevious: { onlyWhenChanged: true }` and `trackMetadata: true`.
//
//   const connector = new LowtideConnector({ endpoint: 'https://api.example.com', getToken });
//   await connector.prepare(db); // before the first write
//   await db.connect(connector);

const MAX_MUTATIONS = 5_000; // in one batch
const MAX_BYTES = 15 * 1024 * 1024; // in one batch
const MAX_ATTEMPTS = 24; // in one call: halving 5,000 takes 13
const AUDIT_EVERY = 24 * 3600 * 1000; // milliseconds

// The SDK's queue does not say when a change was made; these triggers do.
const SETUP = [
  `CREATE TABLE IF NOT EXISTS lowtide_stamp(crud_id INTEGER PRIMARY KEY, at INTEGER NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS lowtide_upload(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_insert AFTER INSERT ON ps_crud BEGIN
     INSERT OR REPLACE INTO lowtide_stamp VALUES (NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
   END`,
  `CREATE TRIGGER IF NOT EXISTS lowtide_stamp_delete AFTER DELETE ON ps_crud BEGIN
     DELETE FROM lowtide_stamp WHERE crud_id = OLD.id;
   END`
];

// A digest of what this device holds, bucket by bucket.
const AUDIT = `
  SELECT b.name, CAST(b.last_op AS TEXT) AS after, count(o.op_id) AS count,
    coalesce(sum(o.op_id % 1000000007), 0) AS ops,
    coalesce(sum(length(o.data)), 0) AS length,
    coalesce(sum(unicode(substr(o.data, 1 + o.op_id % length(o.data), 1))
      + 31 * unicode(substr(o.data, 1 + o.op_id / 7 % length(o.data), 1))), 0) AS sample
  FROM ps_buckets b LEFT JOIN ps_oplog o ON o.bucket = b.id
  WHERE b.name != '$local' GROUP BY b.id LIMIT 1000`;

export class LowtideConnector {
  /**
   * getToken: async () => the user's access token, or null when nobody is signed in. It throws when the
   * network fails: that signs nobody out.
   * onRefused: hears at once of changes that the server refused. The rows of `lowtide_rejections` say
   * so, too, with the content of the change, until the app deletes them.
   */
  constructor({ endpoint, getToken, onRefused = () => {} }) {
    Object.assign(this, { endpoint, getToken, onRefused });
    this.most = MAX_MUTATIONS; // transactions in the next batch
    this.spoilt = { first: 0, times: 0 }; // a transaction that the server could not read, and how often
  }

  async prepare(db) {
    for (const sql of SETUP) await db.execute(sql);
    await db.execute(`INSERT OR IGNORE INTO lowtide_upload VALUES ('audited', ?)`, [String(Date.now())]);
    const { value } = await db.get(`SELECT value FROM lowtide_upload WHERE key = 'audited'`);
    this.audited = Number(value);
    db.registerListener({
      statusChanged: ({ connected, dataFlowStatus: { downloading } }) => {
        if (!connected || downloading || Date.now() - this.audited < AUDIT_EVERY) return;
        this.audited = Date.now(); // one at a time; one that fails is tried again tomorrow
        this.audit(db).catch((error) => console.warn('the audit of the local data failed', error));
      }
    });
  }

  /**
   * Has the server compare what this device holds: once a day by itself. What differs is downloaded anew
   * and replaced at one checkpoint. Returns the names of the buckets that differed.
   */
  async audit(db) {
    const body = { client_id: await db.getClientId(), buckets: await db.getAll(AUDIT) };
    const { status, answer } = await this.post('/v1/sync/audit', body);
    if (status !== 200) throw new Error(`the audit was answered ${status} ${answer.code ?? ''}`);
    this.audited = Date.now();
    await db.execute(`INSERT OR REPLACE INTO lowtide_upload VALUES ('audited', ?)`, [String(this.audited)]);
    return answer.diverged;
  }

  async fetchCredentials() {
    this.token = await this.getToken();
    return this.token ? { endpoint: this.endpoint, token: this.token } : null;
  }

  /** Called while there is something to upload. Throws to be called again after a pause. */
  async uploadData(db) {
    let gap = false; // numbers before this batch were thrown away on this device, by signing out for example
    let signedInAgain = false;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const batch = await this.nextBatch(db);
      if (!batch) return;
      const { status, answer } = await this.post('/v1/sync/batches', { ...batch.body, ...(gap && { gap }) });
      if (status === 200 && answer.last >= batch.last) {
        await batch.complete(); // only now do the changes leave the queue
        this.most = Math.min(MAX_MUTATIONS, this.most * 2);
        const refused = answer.results.filter((result) => result.status === 'refused');
        if (refused.length > 0) this.onRefused(refused);
        return;
      }
      if (status === 401 && !signedInAgain) {
        await this.fetchCredentials();
        signedInAgain = true;
      } else if (status === 409 && answer.code === 'batch_gap' && !gap) {
        gap = true;
      } else if (status === 409 && answer.code === 'batch_repeated') {
        // This database was copied or put back: its numbers have meant something else before. What it held
        // then may have been uploaded by the other, and is not sent again.
        let applied = null;
        for await (const transaction of db.getCrudTransactions()) {
          if (transaction.crud.at(-1).clientId > answer.known) break;
          applied = transaction;
        }
        await applied?.complete();
        const sql = `INSERT OR REPLACE INTO lowtide_upload VALUES ('lineage', lower(hex(randomblob(16))))`;
        await db.execute(sql);
      } else if ([400, 413, 422].includes(status) && batch.transactions > 1) {
        this.most = batch.transactions >> 1; // find the one that is beyond the server
      } else if ([400, 413, 422].includes(status) && this.spoiltTimes(batch.first) < 2) {
        this.spoilt = { first: batch.first, times: this.spoiltTimes(batch.first) + 1 };
      } else {
        throw new Error(`the upload was answered ${status} ${answer.code ?? ''}`);
      }
    }
    throw new Error('the upload does not get through');
  }

  /** As many whole transactions as go into one request, in order. Sending them twice is harmless. */
  async nextBatch(db) {
    const lineage = await db.getOptional(`SELECT value FROM lowtide_upload WHERE key = 'lineage'`);
    const stamps = await db.getAll(`SELECT * FROM lowtide_stamp ORDER BY crud_id LIMIT ${MAX_MUTATIONS}`);
    const at = new Map(stamps.map((stamp) => [stamp.crud_id, stamp.at]));
    const transactions = [];
    let [first, mutations, bytes, last] = [0, 0, 0, null];
    for await (const transaction of db.getCrudTransactions()) {
      const { crud } = transaction;
      const spoilt = this.spoiltTimes(crud[0].clientId);
      const write = spoilt ? unreadable : mutation;
      let sent = { mutations: crud.map((entry) => write(entry, at.get(entry.clientId))) };
      let size = new TextEncoder().encode(JSON.stringify(sent)).length;
      if (size > MAX_BYTES || crud.length > MAX_MUTATIONS || spoilt > 1) {
        sent = { oversized: { n: crud.at(-1).clientId, count: crud.length, bytes: size } };
        size = 0;
      }
      mutations += crud.length;
      bytes += size;
      const full = mutations > MAX_MUTATIONS || bytes > MAX_BYTES || transactions.length >= this.most;
      if (full && transactions.length > 0) break;
      transactions.push(sent);
      first ||= crud[0].clientId;
      last = transaction;
    }
    if (!last) return null;
    const client_id = await db.getClientId();
    return {
      body: { client_id, lineage: lineage?.value, sent_at: Date.now(), transactions },
      transactions: transactions.length,
      first,
      last: last.crud.at(-1).clientId,
      complete: () => last.complete()
    };
  }

  spoiltTimes(first) {
    return this.spoilt.first === first ? this.spoilt.times : 0;
  }

  async post(path, body) {
    if (!this.token && !(await this.fetchCredentials())) throw new Error('nobody is signed in');
    const deadline = new AbortController();
    const timer = setTimeout(() => deadline.abort(), 60_000);
    try {
      const response = await fetch(`${this.endpoint}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Token ${this.token}` },
        body: JSON.stringify(body),
        signal: deadline.signal
      });
      return { status: response.status, answer: await response.json().catch(() => ({})) };
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A change as the server reads it: what was written, what it replaced, and when. */
function mutation(entry, at) {
  return {
    n: entry.clientId,
    op: entry.op.toLowerCase(),
    model: entry.table,
    id: entry.id,
    data: entry.opData,
    base: entry.previousValues,
    at,
    metadata: entry.metadata
  };
}

/**
 * A change that the server cannot read as it is, such as a text with half a surrogate pair. As one text it is
 * refused for certain, and comes back as a rejection: nothing is lost, and nothing waits behind it.
 */
function unreadable(entry) {
  const id = entry.id.replaceAll('\0', '\ufffd');
  return { n: entry.clientId, op: entry.op.toLowerCase(), model: entry.table, id, data: JSON.stringify(entry) };
}
