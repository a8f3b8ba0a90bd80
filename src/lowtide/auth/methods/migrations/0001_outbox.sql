-- What 'lowtide dev' would have sent. A server in production keeps nothing here.
CREATE TABLE outbox (
    number TEXT NOT NULL PRIMARY KEY,
    channel TEXT NOT NULL,
    sent_to TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    sent_at BIGINT NOT NULL
);

CREATE INDEX outbox_sent_at ON outbox (sent_at, number);
