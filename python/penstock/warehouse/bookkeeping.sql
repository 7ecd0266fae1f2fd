-- What the loads themselves have to remember, in every warehouse. The same statements run on DuckDB and PostgreSQL.

CREATE TABLE penstock_schema (
    pipeline  TEXT    NOT NULL PRIMARY KEY,
    version   INTEGER NOT NULL              -- of the tables; a penstock that knows only older ones refuses to load
);

-- One row for each load, written in its own transaction: what a killed load did is not there, and neither is its row.
CREATE TABLE penstock_loads (
    pipeline         TEXT      NOT NULL,    -- in shards, which have logs of their own: pipeline/0001, …
    load_number      BIGINT    NOT NULL,    -- from 1, of all shards together
    log_number       BIGINT    NOT NULL,    -- the last entry of the lake's log that is loaded; -1: none yet
    event_date       DATE,                  -- the date loaded, at the same place in the log; null: the log went on
    facts_inserted   BIGINT    NOT NULL,
    facts_updated    BIGINT    NOT NULL,
    facts_deleted    BIGINT    NOT NULL,
    facts_repointed  BIGINT    NOT NULL,    -- to another dim_user row, by a change that came late
    duplicates       BIGINT    NOT NULL,    -- rows kept aside because an earlier event has their key
    users_changed    BIGINT    NOT NULL,    -- rows of dim_user written or removed
    finished_at      TIMESTAMP NOT NULL,
    load_id          TEXT,                  -- of the attempt: tells whether a COMMIT without an answer was done
    rows_read        BIGINT,                -- of Silver; null (as load_id) in rows of version 1
    kind             TEXT,                  -- load, date; epoch: by the run itself; void: an epoch that must never come
    term             BIGINT,                -- of the run that wrote the epoch; null: it was no run
    lake             TEXT,                  -- whose log it is: a lake that began anew has another one
    PRIMARY KEY (pipeline, load_number)
);

-- The days (UTC) that have facts, each with the last load that touched them: whoever makes something of the facts by day
-- makes these alone anew.
CREATE TABLE penstock_days (
    pipeline     TEXT    NOT NULL,
    event_date   DATE    NOT NULL,
    load_number  BIGINT  NOT NULL,
    PRIMARY KEY (pipeline, event_date)
);

-- For `fill: epoch`, of each log: the newest term that has written here. An older run that wakes up is refused.
CREATE TABLE penstock_terms (
    log   TEXT   NOT NULL PRIMARY KEY,      -- the pipeline's, or a shard's: pipeline/0001, …
    term  BIGINT NOT NULL
);

-- Of each partition: where reading stands after the entries of the log that are here, written with their rows.
CREATE TABLE penstock_offsets (
    log          TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    partition_id INTEGER NOT NULL,
    next_offset  BIGINT  NOT NULL,
    log_number   BIGINT  NOT NULL,          -- the last entry that moved it
    PRIMARY KEY (log, topic, partition_id)
);

-- Up to which load tables that are made from others are refreshed (`penstock refresh`).
CREATE TABLE penstock_refreshes (
    pipeline     TEXT   NOT NULL,
    table_name   TEXT   NOT NULL,
    load_number  BIGINT NOT NULL,
    PRIMARY KEY (pipeline, table_name)
);
