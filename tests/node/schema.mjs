// The tables of the app 'crew', as its developer writes them: what 'lowtide schema' prints, for this SDK.

import { column, Schema, Table } from '@powersync/common';

const { text, integer } = column;
// What a change replaced goes along with it: that is how the server merges.
const options = { trackPrevious: { onlyWhenChanged: true }, trackMetadata: true };

export const SYSTEM = {
  // Changes that the server refused, until the app deletes them here.
  lowtide_rejections: new Table(
    {
      at: text,
      n: integer,
      code: text,
      message: text,
      hint: text,
      op: text,
      model: text,
      record_id: text,
      data: text,
      base: text,
      metadata: text
    },
    options
  ),
  // Calls of server functions: insert one, and read its result when it has arrived.
  lowtide_commands: new Table({ name: text, args: text, status: text, result: text, error: text }, options)
};

export const CREW = new Schema({
  membership: new Table({ user_id: text, team_id: text }, options),
  task: new Table(
    {
      team_id: text,
      title: text,
      notes: text,
      page: text,
      votes: integer,
      tags: text,
      steps: text,
      best: integer,
      least: integer,
      opener: text,
      state: text,
      approved: integer,
      estimate: integer
    },
    options
  ),
  card: new Table({ team_id: text, body: text }, options),
  entry: new Table({ team_id: text, booking: text, amount: integer }, options),
  handle: new Table({ name: text }, options),
  article: new Table({ topic: text, body: text }, options),
  minute: new Table({ team_id: text, body: text }, options),
  note: new Table({ user_id: text, body: text }, options),
  city: new Table({ name: text, story: text }, options),
  alarm: new Table({ text }, options),
  ...SYSTEM
});

// The version of a year ago, which is still on many phones.
export const CREW_LAST_YEAR = new Schema({
  membership: new Table({ user_id: text, team_id: text }, options),
  task: new Table({ team_id: text, title: text, remark: text, votes: integer, colour: text }, options),
  ...SYSTEM
});
