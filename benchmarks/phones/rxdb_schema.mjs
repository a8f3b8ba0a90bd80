const text = { type: 'string' };

export const SCHEMA = {
  version: 0,
  primaryKey: 'id',
  type: 'object',
  properties: { id: { type: 'string', maxLength: 100 }, team_id: text, title: text, notes: text }
};
