-- The keys of the audit log, sealed by the vault: 'sign' for checkpoints, 'pepper' for the hashes of values.
-- A key that was replaced stays: what it signed must still be verified.
CREATE TABLE audit_key (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('sign', 'pepper')),
    public TEXT,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
