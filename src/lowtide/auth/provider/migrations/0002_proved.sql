-- When the user proved who they are: elsewhere that may be long before they came here. NULL: nobody told.
ALTER TABLE browser_session ADD COLUMN proved_at BIGINT;
UPDATE browser_session SET proved_at = auth_time WHERE amr NOT LIKE '%"fed"%';
