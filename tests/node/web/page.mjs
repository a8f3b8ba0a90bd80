// The page of a web app: the SDK for browsers as it comes, with its own workers, and the connector.

import { Lowtide, LowtideConnector, Session, webStore } from '@lowtide/client';
import { PowerSyncDatabase } from '@powersync/web';
import { CREW } from '../schema.mjs';

/** Opens the database `file`, or finds it as it was left, and connects. `token` is the test's. */
window.start = async ({ user, file, retry = 100, throttle = 10 }) => {
  const worker = '/worker/worker.js';
  const db = new PowerSyncDatabase({ schema: CREW, database: { dbFilename: file, worker }, sync: { worker } });
  const connector = new LowtideConnector({ endpoint: location.origin, tokens: () => window.token(user) });
  await connector.prepare(db);
  window.db = db;
  // Not waited for: without a network it goes on by itself.
  void db.connect(connector, { retryDelayMs: retry, crudUploadThrottleMs: throttle });
};

/** An app with accounts: its session in the browser's storage, its data in `file`. Needs no network. */
window.open_app = async (file) => {
  const worker = '/worker/worker.js';
  const db = new PowerSyncDatabase({ schema: CREW, database: { dbFilename: file, worker }, sync: { worker } });
  const session = new Session({
    endpoint: location.origin,
    store: webStore(localStorage),
    device: { name: 'A browser', platform: 'web' }
  });
  const lowtide = new Lowtide(db, { tokens: session });
  await lowtide.open();
  Object.assign(window, { db, session, lowtide });
};

/** What happens while `db` syncs: how far it says it is, and the longest time in which the page could not move. */
window.observe = () => {
  const seen = { progress: [], stall: 0 };
  let last = performance.now();
  const tick = () => {
    const now = performance.now();
    seen.stall = Math.max(seen.stall, now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  window.db.registerListener({
    statusChanged: ({ downloadProgress }) => {
      if (downloadProgress) seen.progress.push([downloadProgress.downloadedOperations, downloadProgress.totalOperations]);
    }
  });
  window.seen = seen;
};
