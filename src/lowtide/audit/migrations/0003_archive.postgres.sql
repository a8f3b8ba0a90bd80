-- Entries that left the table: each row is a segment of the chain in a blob, which begins where the one before ends.
CREATE TABLE audit_segment (
    first BIGINT NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL UNIQUE,
    hash BYTEA NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    blob TEXT NOT NULL,
    archived_at BIGINT NOT NULL
);

-- What was written last about something of which only changes are written: it must be known without its entry.
CREATE TABLE audit_last (
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    hash BYTEA NOT NULL,
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

-- The tripwires let go of what a segment holds, and of nothing else.
CREATE FUNCTION audit_refuse_kept() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF OLD.seq IS NULL OR OLD.seq > (SELECT coalesce(max(last), 0) FROM audit_segment) THEN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$body$;

CREATE FUNCTION audit_refuse_detail() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM audit_entry e
    WHERE e.id = OLD.entry AND e.seq <= (SELECT coalesce(max(last), 0) FROM audit_segment)) THEN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$body$;

CREATE FUNCTION audit_refuse_gap() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NEW.first <> (SELECT coalesce(max(last), 0) + 1 FROM audit_segment) OR NEW.last < NEW.first THEN
        RAISE EXCEPTION 'an archive begins where the one before ends'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$body$;

DROP TRIGGER audit_entry_stays ON audit_entry;

CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_refuse_kept();

DROP TRIGGER audit_detail_stays ON audit_detail;

CREATE TRIGGER audit_detail_stays BEFORE DELETE ON audit_detail FOR EACH ROW EXECUTE FUNCTION audit_refuse_detail();

CREATE TRIGGER audit_segment_follows BEFORE INSERT ON audit_segment FOR EACH ROW EXECUTE FUNCTION audit_refuse_gap();

CREATE TRIGGER audit_segment_keeps BEFORE UPDATE ON audit_segment FOR EACH ROW EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_segment_stays BEFORE DELETE ON audit_segment FOR EACH ROW EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_segment_whole BEFORE TRUNCATE ON audit_segment EXECUTE FUNCTION audit_refuse();
