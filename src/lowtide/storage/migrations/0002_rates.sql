-- Limits that all nodes share: the theoretical arrival time of each, in microseconds since 1970.
CREATE TABLE rate (
    key TEXT NOT NULL PRIMARY KEY,
    arrival BIGINT NOT NULL
);

CREATE INDEX rate_arrival ON rate (arrival);
