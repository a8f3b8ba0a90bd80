-- Who did what, in the order of a chain of hashes. A row is written with the change that it is about and
-- without a number; the sequencer gives it its place (seq) and its link (hash), once.
CREATE TABLE audit_entry (
    id TEXT NOT NULL PRIMARY KEY,
    seq BIGINT UNIQUE,
    at BIGINT NOT NULL,
    space TEXT NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    target TEXT NOT NULL,
    request TEXT NOT NULL,
    before_hash BYTEA,
    after_hash BYTEA,
    personal_hash BYTEA,
    hash BYTEA
);

CREATE INDEX audit_entry_unchained ON audit_entry (id) WHERE seq IS NULL;

CREATE INDEX audit_entry_actor ON audit_entry (actor, id);

CREATE INDEX audit_entry_target ON audit_entry (target, id);

-- What may be forgotten: personal data, and the salt without which no hash can be tried out.
CREATE TABLE audit_detail (
    entry TEXT NOT NULL PRIMARY KEY,
    salt TEXT,
    personal TEXT,
    erased_by TEXT
);

-- The last link. Whoever chains holds this row, so the chain never forks.
CREATE TABLE audit_head (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL
);

INSERT INTO audit_head (one, seq, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

-- Tripwires, not walls: who owns the database can drop them, and 'lowtide audit verify' finds what then was done.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$body$;

CREATE TRIGGER audit_entry_is_new BEFORE INSERT ON audit_entry FOR EACH ROW
WHEN (NEW.seq IS NOT NULL OR NEW.hash IS NOT NULL) EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_entry_keeps BEFORE UPDATE ON audit_entry FOR EACH ROW
WHEN (OLD.seq IS NOT NULL OR NEW.id <> OLD.id OR NEW.at <> OLD.at OR NEW.space <> OLD.space
OR NEW.action <> OLD.action OR NEW.actor <> OLD.actor OR NEW.via <> OLD.via OR NEW.target <> OLD.target
OR NEW.request <> OLD.request OR NEW.before_hash IS DISTINCT FROM OLD.before_hash
OR NEW.after_hash IS DISTINCT FROM OLD.after_hash OR NEW.personal_hash IS DISTINCT FROM OLD.personal_hash)
EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_entry_whole BEFORE TRUNCATE ON audit_entry EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_detail_keeps BEFORE UPDATE ON audit_detail FOR EACH ROW
WHEN (NEW.entry <> OLD.entry OR OLD.erased_by IS NOT NULL OR NEW.erased_by IS NULL
OR NEW.salt IS NOT NULL OR NEW.personal IS NOT NULL) EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_detail_stays BEFORE DELETE ON audit_detail FOR EACH ROW EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_detail_whole BEFORE TRUNCATE ON audit_detail EXECUTE FUNCTION audit_refuse();
