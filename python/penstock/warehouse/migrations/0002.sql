-- From version 1 to 2: a load can be found again by its id, says which days it has touched, and
-- epochs can be written by the run itself.
-- The tables are those of all pipelines in a schema; run again for the next of them, this changes nothing.

ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS load_id TEXT;
ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS rows_read BIGINT;
CREATE TABLE IF NOT EXISTS penstock_days (
    pipeline     TEXT    NOT NULL,
    event_date   DATE    NOT NULL,
    load_number  BIGINT  NOT NULL,
    PRIMARY KEY (pipeline, event_date)
);

ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS kind TEXT;
ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS term BIGINT;
ALTER TABLE penstock_loads ADD COLUMN IF NOT EXISTS lake TEXT;

-- For `fill: epoch`, of each log: the newest term that has written here. An older run that wakes up is refused.
CREATE TABLE IF NOT EXISTS penstock_terms (
    log   TEXT   NOT NULL PRIMARY KEY,      -- the pipeline's, or a shard's: pipeline/0001, …
    term  BIGINT NOT NULL
);

-- Of each partition: where reading stands after the entries of the log that are here, written with their rows.
CREATE TABLE IF NOT EXISTS penstock_offsets (
    log          TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    partition_id INTEGER NOT NULL,
    next_offset  BIGINT  NOT NULL,
    log_number   BIGINT  NOT NULL,          -- the last entry that moved it
    PRIMARY KEY (log, topic, partition_id)
);

-- Up to which load tables that are made from others are refreshed (`penstock refresh`).
CREATE TABLE IF NOT EXISTS penstock_refreshes (
    pipeline     TEXT   NOT NULL,
    table_name   TEXT   NOT NULL,
    load_number  BIGINT NOT NULL,
    PRIMARY KEY (pipeline, table_name)
);
