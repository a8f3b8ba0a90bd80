// Users of the package: sessions kept in files, as an app keeps them, and the network between them and the server.

import { join } from 'node:path';
import { fileStore, Session } from '@lowtide/client';
import { folder, url } from './harness.mjs';

/**
 * What a session or a connector may be given as `fetch`. `sent` has each exchange: `{ path, body, status, answer }`.
 * Set `between` to a function that gets each of them before its answer is passed on: what it throws, the app sees.
 */
export function network() {
  const self = { sent: [], between: null, fetch };
  async function fetch(address, options) {
    const response = await globalThis.fetch(address, options);
    const text = await response.clone().text();
    const answer = text && JSON.parse(text);
    const exchange = { path: new URL(address).pathname, body: options.body, status: response.status, answer };
    self.sent.push(exchange);
    await self.between?.(exchange);
    return response;
  }
  /** How often this path was asked. */
  self.count = (path) => self.sent.filter((exchange) => exchange.path === path).length;
  return self;
}

export const REFRESH = '/v1/auth/token/refresh';

/** The session that is kept under `name`; what is there is gone on with. */
export async function open(name, net = network()) {
  const session = new Session({ endpoint: url, store: fileStore(join(folder, name)), fetch: net.fetch });
  await session.restore();
  return Object.assign(session, { net });
}

/** Prove a mailbox with the code that comes there. */
export async function prove(session, email, mail) {
  const flow = await session.signIn.startEmail(email);
  return session.signIn.finishEmail(flow, await mail.code(email));
}
