-- Transactions as they came, and each once. The same statements run on DuckDB and PostgreSQL.
-- Every TIMESTAMP of the warehouse is UTC.

-- One row for each Silver row, under its position in the source.
CREATE TABLE transactions (
    transaction_id   UUID      NOT NULL,         -- not unique: see transactions_clean
    user_id          UUID      NOT NULL,
    amount           DECIMAL(18, 2) NOT NULL,    -- in units of the currency
    currency         TEXT      NOT NULL,
    status           TEXT      NOT NULL,
    event_time       TIMESTAMP NOT NULL,
    processing_time  TIMESTAMP,                  -- the event's own, else when the broker took it, else when it was read
    lake_topic       TEXT      NOT NULL,         -- position of the event in its source
    lake_partition   INTEGER   NOT NULL,
    lake_offset      BIGINT    NOT NULL,
    lake_file        BIGINT    NOT NULL,         -- which Silver file holds it: a hash of the file's name
    load_number      BIGINT    NOT NULL,         -- of penstock_loads: the load that wrote it, or changed it last
    UNIQUE (lake_topic, lake_partition, lake_offset)
);

-- Ids of rows that a load took away or gave another id, until transactions_clean has taken notice.
CREATE TABLE transactions_touched (
    transaction_id  UUID   NOT NULL,
    load_number     BIGINT NOT NULL
);

-- Each transaction once, by `penstock refresh`. Of several rows with one id (sent again after the horizon of the
-- deduplication) the earliest event counts, so that it does not matter which was loaded first.
CREATE TABLE transactions_clean (
    transaction_id   UUID      NOT NULL PRIMARY KEY,
    user_id          UUID      NOT NULL,
    amount           DECIMAL(18, 2) NOT NULL,
    currency         TEXT      NOT NULL,
    status           TEXT      NOT NULL,
    event_time       TIMESTAMP NOT NULL,
    processing_time  TIMESTAMP,
    event_date       DATE      NOT NULL,
    event_hour       TIMESTAMP NOT NULL,
    latency_seconds  DECIMAL(18, 6),             -- from event_time to processing_time
    is_late          BOOLEAN   NOT NULL          -- it took longer than two minutes
);
