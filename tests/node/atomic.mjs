// Rows that were written in one transaction are seen together, or not at all.

import { caughtUp, content, history, joinTeam, phone, scenario, until, uploaded } from './harness.mjs';

const BOOK = 'INSERT INTO entry(id, team_id, booking, amount) VALUES (?, ?, ?, ?)';
const SIDES = 'SELECT booking, count(*) AS sides, sum(amount) AS sum FROM entry GROUP BY booking';

const book = (db, number, amount) =>
  db.writeTransaction(async (tx) => {
    await tx.execute(BOOK, [`${number}-debit`, 'red', `${number}`, -amount]);
    await tx.execute(BOOK, [`${number}-credit`, 'red', `${number}`, amount]);
  });

await scenario(async () => {
  await joinTeam('red', 'anna', 'ben');
  const [anna, ben] = [await phone('anna'), await phone('ben')];
  await Promise.all([anna.db.waitForFirstSync(), ben.db.waitForFirstSync()]);
  const seen = history(ben, SIDES);
  for (let number = 0; number < 40; number++) {
    await book(anna.db, number, number + 1);
    if (number % 4 === 3) {
      await anna.db.writeTransaction(async (tx) => {
        await tx.execute('UPDATE entry SET amount = amount * 2 WHERE booking = ?', [`${number - 1}`]);
        await tx.execute('DELETE FROM entry WHERE booking = ?', [`${number - 2}`]);
      });
    }
  }
  await uploaded(anna);
  await until(ben.db, 'SELECT count(DISTINCT booking) AS n FROM entry', [{ n: 30 }]);

  // One side is not anna's to write: nothing of the booking happens.
  await anna.db.writeTransaction(async (tx) => {
    await tx.execute(BOOK, ['bad-debit', 'red', 'bad', -7]);
    await tx.execute(BOOK, ['bad-credit', 'blue', 'bad', 7]);
  });
  await caughtUp(anna, ben);
  return { seen, anna: await content(anna), ben: await content(ben) };
});
