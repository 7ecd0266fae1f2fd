-- From version 1 to 2: a load can be found again by its id, and says which days it has touched.
-- The tables are those of all pipelines in a schema; run again for the next of them, this changes nothing.

ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS load_id TEXT;
ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS rows_read BIGINT;
CREATE TABLE IF NOT EXISTS penstock_days (
    pipeline     TEXT    NOT NULL,
    event_date   DATE    NOT NULL,
    load_number  BIGINT  NOT NULL,
    PRIMARY KEY (pipeline, event_date)
);
