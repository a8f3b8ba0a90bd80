-- Which changes of records an endpoint hears of, and who delivers them to it now.
ALTER TABLE webhook_endpoint ADD COLUMN models TEXT NOT NULL DEFAULT '[]';
ALTER TABLE webhook_endpoint ADD COLUMN spaces TEXT NOT NULL DEFAULT '[]';
ALTER TABLE webhook_endpoint ADD COLUMN with_data BIGINT NOT NULL DEFAULT 0;
ALTER TABLE webhook_endpoint ADD COLUMN held_by TEXT NOT NULL DEFAULT '';
ALTER TABLE webhook_endpoint ADD COLUMN held_until BIGINT NOT NULL DEFAULT 0;
ALTER TABLE webhook_endpoint ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE webhook_endpoint ADD COLUMN retry_at BIGINT NOT NULL DEFAULT 0;

-- Messages about records: written by the group that changed them, deleted once they have arrived.
CREATE TABLE webhook_record (
    endpoint TEXT NOT NULL,
    op BIGINT NOT NULL,
    id TEXT NOT NULL,
    record TEXT NOT NULL,
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 0,
    due_at BIGINT NOT NULL DEFAULT 0,
    dead_at BIGINT,
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (endpoint, op)
);

CREATE INDEX webhook_record_waiting ON webhook_record (endpoint, op) WHERE dead_at IS NULL;
CREATE INDEX webhook_record_dead ON webhook_record (endpoint, dead_at) WHERE dead_at IS NOT NULL;
