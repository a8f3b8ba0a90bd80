-- The sessions that end with a client.
CREATE INDEX session_client ON session (client) WHERE client <> '' AND ended_at IS NULL;
