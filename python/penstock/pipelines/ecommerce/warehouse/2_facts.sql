-- One row for each event, under its idempotency key. The same statements run on DuckDB and PostgreSQL.

CREATE TABLE fact_events (
    idempotency_key   TEXT      NOT NULL UNIQUE,
    user_key          BIGINT    NOT NULL,         -- dim_user: the row that was valid at event_timestamp
    time_key          INTEGER,                    -- dim_time: null outside 2020-2030
    device_key        INTEGER,                    -- dim_device: null for a device that it does not list
    event_type        TEXT      NOT NULL,
    event_timestamp   TIMESTAMP NOT NULL,
    user_id           TEXT      NOT NULL,
    session_id        TEXT,
    session_start     TIMESTAMP,
    session_seq       BIGINT,                     -- null for a replayed event
    page              TEXT,
    order_id          TEXT,
    product_id        TEXT,
    product_category  TEXT,
    quantity          BIGINT,
    purchase_amount   DECIMAL(12, 2),             -- purchases only
    failed_amount     DECIMAL(12, 2),             -- failed payments only
    currency          TEXT,
    payment_method    TEXT,
    failure_reason    TEXT,
    country           TEXT,                       -- where the event came from
    lake_topic        TEXT      NOT NULL,         -- position of the event in its source
    lake_partition    INTEGER   NOT NULL,
    lake_offset       BIGINT    NOT NULL,
    lake_file         BIGINT    NOT NULL          -- which Silver file holds it: a hash of the file's name
);

-- Silver rows that share their idempotency key with a fact (sent again after the deduplication horizon). The earliest
-- event is the fact; the others wait here, so that the result does not depend on which of them was loaded first, and one
-- of them takes over when the fact's own row is removed from Silver.
CREATE TABLE fact_duplicates (
    idempotency_key    TEXT      NOT NULL,
    time_key           INTEGER,
    device_key         INTEGER,
    event_type         TEXT      NOT NULL,
    event_timestamp    TIMESTAMP NOT NULL,
    user_id            TEXT      NOT NULL,
    session_id         TEXT,
    session_start      TIMESTAMP,
    session_seq        BIGINT,
    page               TEXT,
    order_id           TEXT,
    product_id         TEXT,
    product_category   TEXT,
    quantity           BIGINT,
    purchase_amount    DECIMAL(12, 2),
    failed_amount      DECIMAL(12, 2),
    currency           TEXT,
    payment_method     TEXT,
    failure_reason     TEXT,
    country            TEXT,
    plan_type          TEXT,
    signup_channel     TEXT,
    language           TEXT,
    marketing_consent  BOOLEAN,
    is_change          BOOLEAN   NOT NULL,
    lake_topic         TEXT      NOT NULL,
    lake_partition     INTEGER   NOT NULL,
    lake_offset        BIGINT    NOT NULL,
    lake_file          BIGINT    NOT NULL
);
