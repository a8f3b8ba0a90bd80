-- Limits that all nodes share: the theoretical arrival time of each, in microseconds since 1970.
-- Not in the write-ahead log: after a crash of the database every limit begins anew.
CREATE UNLOGGED TABLE rate (
    key TEXT NOT NULL PRIMARY KEY,
    arrival BIGINT NOT NULL
);

CREATE INDEX rate_arrival ON rate (arrival);
