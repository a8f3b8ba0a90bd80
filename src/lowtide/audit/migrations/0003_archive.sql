-- Entries that left the table: each row is a segment of the chain in a blob, which begins where the one before ends.
CREATE TABLE audit_segment (
    first BIGINT NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL UNIQUE,
    hash BLOB NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    blob TEXT NOT NULL,
    archived_at BIGINT NOT NULL
);

-- What was written last about something of which only changes are written: it must be known without its entry.
CREATE TABLE audit_last (
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    hash BLOB NOT NULL,
    salt TEXT NOT NULL,
    PRIMARY KEY (action, target)
);

INSERT INTO audit_last (action, target, hash, salt)
SELECT e.action, e.target, e.after_hash, d.salt FROM audit_entry e JOIN audit_detail d ON d.entry = e.id
WHERE e.after_hash IS NOT NULL AND d.salt IS NOT NULL AND e.id =
(SELECT max(id) FROM audit_entry WHERE target = 'settings' AND action = 'settings.change');

-- For whoever looks by space, by action, or by request.
CREATE INDEX audit_entry_space ON audit_entry (space, id);

CREATE INDEX audit_entry_action ON audit_entry (action, id);

CREATE INDEX audit_entry_request ON audit_entry (request, id) WHERE request <> '';

DROP TRIGGER audit_entry_stays;

CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry
WHEN OLD.seq IS NULL OR OLD.seq > (SELECT coalesce(max(last), 0) FROM audit_segment)
BEGIN SELECT RAISE(ABORT, 'audit entries are append-only'); END;

DROP TRIGGER audit_detail_stays;

CREATE TRIGGER audit_detail_stays BEFORE DELETE ON audit_detail
WHEN NOT EXISTS (SELECT 1 FROM audit_entry e
WHERE e.id = OLD.entry AND e.seq <= (SELECT coalesce(max(last), 0) FROM audit_segment))
BEGIN SELECT RAISE(ABORT, 'audit details can only be erased'); END;

CREATE TRIGGER audit_segment_follows BEFORE INSERT ON audit_segment
WHEN NEW.first <> (SELECT coalesce(max(last), 0) + 1 FROM audit_segment) OR NEW.last < NEW.first
BEGIN SELECT RAISE(ABORT, 'an archive begins where the one before ends'); END;

CREATE TRIGGER audit_segment_keeps BEFORE UPDATE ON audit_segment
BEGIN SELECT RAISE(ABORT, 'audit archives are append-only'); END;

CREATE TRIGGER audit_segment_stays BEFORE DELETE ON audit_segment
BEGIN SELECT RAISE(ABORT, 'audit archives are append-only'); END;
