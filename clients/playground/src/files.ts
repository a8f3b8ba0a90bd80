// The names of the phones' database files.

import type { Facts } from './server';
import type { PhoneId } from './switches';

/** The file of a user's database on a phone. Another server's data, or its data begun anew, is another file. */
export function databaseName({ name, epoch }: Facts, phone: PhoneId, user: string): string {
  return `playground-${name}-${epoch}-${phone}-${user}.db`;
}
