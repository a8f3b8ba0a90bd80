-- A record's messages in their order, so that those behind one that failed can be passed over.
CREATE INDEX webhook_record_order ON webhook_record (endpoint, record, op, due_at) WHERE dead_at IS NULL;

-- What failed, by the time of its next try.
CREATE INDEX webhook_record_again ON webhook_record (endpoint, due_at) WHERE dead_at IS NULL AND due_at > 0;
