-- The keys that sign access tokens: one is current, one is published and waits to be next,
-- old ones only verify what they signed, until the last of it has expired.
CREATE TABLE signing_key (
    kid TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('current', 'next', 'old')),
    public_pem TEXT NOT NULL,
    private_pem TEXT,
    created_at BIGINT NOT NULL,
    retires_at BIGINT
);

-- Two nodes that start or rotate at once end with one key of each kind.
CREATE UNIQUE INDEX signing_key_state ON signing_key (state) WHERE state <> 'old';
