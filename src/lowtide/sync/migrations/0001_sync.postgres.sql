-- One row: the order of everything. The writer holds it for the length of a group.
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    group_no BIGINT NOT NULL,
    epoch TEXT NOT NULL,
    last_bucket BIGINT NOT NULL
);

CREATE TABLE record (
    space TEXT NOT NULL,
    model TEXT NOT NULL,
    id TEXT NOT NULL,
    data TEXT NOT NULL,
    stamps TEXT NOT NULL,
    deleted SMALLINT NOT NULL,
    op BIGINT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    PRIMARY KEY (space, model, id)
);

CREATE INDEX record_tombstone ON record (op) WHERE deleted = 1;

-- Live records by a value: unique fields, looked-up fields.
CREATE TABLE record_index (
    space TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (space, name, value, id)
);

CREATE TABLE bucket (
    id BIGINT PRIMARY KEY,
    space TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    last BIGINT NOT NULL,
    live BIGINT NOT NULL,
    floor BIGINT NOT NULL
);

-- One entry for each (bucket, record): the latest. A new change moves it.
CREATE TABLE bucket_entry (
    bucket BIGINT NOT NULL,
    op BIGINT NOT NULL,
    model TEXT NOT NULL,
    id TEXT NOT NULL,
    removed SMALLINT NOT NULL,
    PRIMARY KEY (bucket, op)
);
CREATE UNIQUE INDEX bucket_entry_record ON bucket_entry (bucket, model, id);
CREATE INDEX bucket_entry_removal ON bucket_entry (bucket, op) WHERE removed = 1;

-- The last op of a bucket in each group that changed it: what a device at a checkpoint had received last.
CREATE TABLE bucket_history (
    bucket BIGINT NOT NULL,
    op BIGINT NOT NULL,
    PRIMARY KEY (bucket, op)
);

-- When each group happened and what it changed.
CREATE TABLE head_log (
    group_no BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    topics TEXT NOT NULL
);
CREATE INDEX head_log_at ON head_log (at);

CREATE TABLE device (
    space TEXT NOT NULL,
    user_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    last_n BIGINT NOT NULL,
    answers TEXT NOT NULL,
    answered_group BIGINT NOT NULL,
    request BIGINT,
    request_group BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    gaps BIGINT NOT NULL,
    uploaded_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    seen_group BIGINT NOT NULL,
    PRIMARY KEY (space, user_id, client_id)
);

CREATE TABLE journal (
    id BIGINT PRIMARY KEY,
    space TEXT NOT NULL,
    model TEXT NOT NULL,
    record TEXT NOT NULL,
    field TEXT NOT NULL,
    lost TEXT NOT NULL,
    lost_by TEXT NOT NULL,
    lost_at BIGINT NOT NULL,
    won TEXT NOT NULL,
    won_by TEXT NOT NULL,
    won_at BIGINT NOT NULL,
    reason TEXT NOT NULL,
    at BIGINT NOT NULL,
    restored_at BIGINT
);
CREATE INDEX journal_record ON journal (space, model, record, id);
CREATE INDEX journal_space ON journal (space, id);

-- What was deployed last: the app's schema as canonical JSON.
CREATE TABLE deployed_schema (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    snapshot TEXT NOT NULL,
    at BIGINT NOT NULL
);
-- Rows that change with every group: room on the page keeps updates in place.
ALTER TABLE head SET (fillfactor = 50);
ALTER TABLE bucket SET (fillfactor = 70);
ALTER TABLE device SET (fillfactor = 70);
