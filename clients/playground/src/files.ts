// Under which names a phone keeps its databases and its session.

import type { Facts } from './server';
import type { PhoneId } from './switches';

/** The file of a user's database on a phone. Another server's data, or its data begun anew, is another file. */
export function databaseName({ name, epoch }: Facts, phone: PhoneId, user: string): string {
  return `playground-${name}-${epoch}-${phone}-${user}.db`;
}

/** Where the session of a phone's account is kept: as its database, each phone's and each server's its own. */
export function sessionName({ name, epoch }: Facts, phone: PhoneId): string {
  return `lowtide-playground-${name}-${epoch}-${phone}-session`;
}
