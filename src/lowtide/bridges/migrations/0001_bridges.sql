-- Which buckets a user held when a cursor was given out: a row never changes, so a cursor means for ever what
-- it meant.
CREATE TABLE bridge_view (
    space TEXT NOT NULL,
    user_id TEXT NOT NULL,
    no BIGINT NOT NULL,
    epoch TEXT NOT NULL,
    since BIGINT NOT NULL,
    topics TEXT NOT NULL,
    PRIMARY KEY (space, user_id, no)
);

-- What a client pushed of a record last, and on which version of it: a push that comes again, with more or
-- without, is told from a new one by this.
CREATE TABLE bridge_push (
    space TEXT NOT NULL,
    user_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    model TEXT NOT NULL,
    id TEXT NOT NULL,
    fields TEXT NOT NULL,
    op BIGINT NOT NULL,
    group_no BIGINT NOT NULL,
    PRIMARY KEY (space, user_id, client_id, model, id)
);
CREATE INDEX bridge_push_group ON bridge_push (space, user_id, client_id, group_no);
CREATE INDEX bridge_push_age ON bridge_push (group_no);
