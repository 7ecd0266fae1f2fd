-- From version 1 to 2: a load can be found again by its id.

ALTER TABLE penstock_loads ADD COLUMN load_id TEXT;
ALTER TABLE penstock_loads ADD COLUMN rows_read BIGINT;
