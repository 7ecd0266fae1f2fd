-- A warehouse of version 1, as the penstock of that time made it: its DDL, and the rows of `migration_lake.first`.

-- What the loads themselves have to remember, in every warehouse.

CREATE TABLE penstock_schema (
    pipeline  TEXT    NOT NULL PRIMARY KEY,
    version   INTEGER NOT NULL              -- of the tables; a penstock that knows only older ones refuses to load
);

-- One row for each load, written in its own transaction: what a killed load did is not there, and neither is its row.
CREATE TABLE penstock_loads (
    pipeline        TEXT      NOT NULL,     -- in shards, which have logs of their own: pipeline/0001, …
    load_number     BIGINT    NOT NULL,     -- from 1, of all shards together
    log_number      BIGINT    NOT NULL,     -- the last entry of the lake's log that is loaded; -1: none yet
    event_date      DATE,                   -- the date loaded, at the same place in the log; null: the log went on
    facts_inserted  BIGINT    NOT NULL,
    facts_updated   BIGINT    NOT NULL,
    facts_deleted   BIGINT    NOT NULL,
    facts_repointed BIGINT    NOT NULL,     -- to another dim_user row, by a change that came late
    duplicates      BIGINT    NOT NULL,     -- rows kept aside because an earlier event has their key
    users_changed   BIGINT    NOT NULL,     -- rows of dim_user written or removed
    finished_at     TIMESTAMP NOT NULL,
    PRIMARY KEY (pipeline, load_number)
);

-- The dimensions of the star. The same statements run on DuckDB and PostgreSQL.
-- Every TIMESTAMP of the warehouse is UTC.

CREATE TABLE dim_time (
    time_key     INTEGER   PRIMARY KEY,     -- YYYYMMDDHH
    hour_start   TIMESTAMP NOT NULL,
    date         DATE      NOT NULL,
    year         INTEGER   NOT NULL,
    quarter      INTEGER   NOT NULL,
    month        INTEGER   NOT NULL,
    month_name   TEXT      NOT NULL,
    week         INTEGER   NOT NULL,        -- ISO 8601
    day          INTEGER   NOT NULL,
    day_of_week  INTEGER   NOT NULL,        -- ISO 8601: Monday is 1
    day_name     TEXT      NOT NULL,
    hour         INTEGER   NOT NULL,
    is_weekend   BOOLEAN   NOT NULL
);

CREATE TABLE dim_device (
    device_key   INTEGER PRIMARY KEY,
    device_type  TEXT    NOT NULL,
    os           TEXT    NOT NULL,
    browser      TEXT    NOT NULL,
    UNIQUE (device_type, os, browser)
);

-- Type 2 on plan_type; the other attributes are type 1 (the newest known value stands in all rows of a user).
-- A row is valid over [effective_start_date, effective_end_date). An inferred row stands for the time before the first
-- sign-up that has been seen: it has no attributes, and a later load replaces or shortens it.
CREATE TABLE dim_user (
    user_key              BIGINT    PRIMARY KEY,    -- made from user_id and effective_start_date: the same in every load
    user_id               TEXT      NOT NULL,
    plan_type             TEXT,
    country               TEXT,
    signup_channel        TEXT,
    language              TEXT,
    marketing_consent     BOOLEAN,
    effective_start_date  TIMESTAMP NOT NULL,
    effective_end_date    TIMESTAMP,                -- null while current
    is_current            BOOLEAN   NOT NULL,
    is_inferred           BOOLEAN   NOT NULL
);

-- Every sign-up and change of plan, those that changed nothing too. A history cannot be corrected from its rows alone
-- (free at 1, free at 2, then "basic at 1.5" comes late: free, basic, free), so what confirmed a row stays here.
CREATE TABLE dim_user_changes (
    idempotency_key    TEXT      PRIMARY KEY,
    user_id            TEXT      NOT NULL,
    event_timestamp    TIMESTAMP NOT NULL,
    plan_type          TEXT,
    country            TEXT,
    signup_channel     TEXT,
    language           TEXT,
    marketing_consent  BOOLEAN,
    lake_topic         TEXT      NOT NULL,
    lake_partition     INTEGER   NOT NULL,
    lake_offset        BIGINT    NOT NULL
);

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

-- What the dimensions hold from the start. The same statements run on DuckDB and PostgreSQL.

INSERT INTO dim_time
SELECT
    CAST(EXTRACT(year FROM h) * 1000000 + EXTRACT(month FROM h) * 10000 + EXTRACT(day FROM h) * 100
        + EXTRACT(hour FROM h) AS INTEGER),
    h,
    CAST(h AS DATE),
    CAST(EXTRACT(year FROM h) AS INTEGER),
    CAST(EXTRACT(quarter FROM h) AS INTEGER),
    CAST(EXTRACT(month FROM h) AS INTEGER),
    CASE CAST(EXTRACT(month FROM h) AS INTEGER)
        WHEN 1 THEN 'January' WHEN 2 THEN 'February' WHEN 3 THEN 'March' WHEN 4 THEN 'April' WHEN 5 THEN 'May'
        WHEN 6 THEN 'June' WHEN 7 THEN 'July' WHEN 8 THEN 'August' WHEN 9 THEN 'September' WHEN 10 THEN 'October'
        WHEN 11 THEN 'November' ELSE 'December' END,
    CAST(EXTRACT(week FROM h) AS INTEGER),
    CAST(EXTRACT(day FROM h) AS INTEGER),
    CAST(EXTRACT(isodow FROM h) AS INTEGER),
    CASE CAST(EXTRACT(isodow FROM h) AS INTEGER)
        WHEN 1 THEN 'Monday' WHEN 2 THEN 'Tuesday' WHEN 3 THEN 'Wednesday' WHEN 4 THEN 'Thursday' WHEN 5 THEN 'Friday'
        WHEN 6 THEN 'Saturday' ELSE 'Sunday' END,
    CAST(EXTRACT(hour FROM h) AS INTEGER),
    EXTRACT(isodow FROM h) >= 6
FROM generate_series(TIMESTAMP '2020-01-01 00:00:00', TIMESTAMP '2030-12-31 23:00:00', INTERVAL '1' HOUR) AS hours (h);

INSERT INTO dim_device (device_key, device_type, os, browser) VALUES
    (1, 'desktop', 'Windows', 'Chrome'),
    (2, 'desktop', 'Windows', 'Edge'),
    (3, 'desktop', 'Windows', 'Firefox'),
    (4, 'desktop', 'macOS', 'Safari'),
    (5, 'desktop', 'macOS', 'Chrome'),
    (6, 'desktop', 'macOS', 'Firefox'),
    (7, 'desktop', 'Linux', 'Chrome'),
    (8, 'desktop', 'Linux', 'Firefox'),
    (9, 'mobile', 'iOS', 'Safari'),
    (10, 'mobile', 'iOS', 'Chrome'),
    (11, 'mobile', 'Android', 'Chrome'),
    (12, 'mobile', 'Android', 'Samsung Internet'),
    (13, 'mobile', 'Android', 'Firefox'),
    (14, 'tablet', 'iPadOS', 'Safari'),
    (15, 'tablet', 'Android', 'Chrome'),
    (16, 'tablet', 'Android', 'Samsung Internet');

INSERT INTO dim_user (user_key, user_id, plan_type, country, signup_channel, language, marketing_consent, effective_start_date, effective_end_date, is_current, is_inferred) VALUES
    (891297492688046858, 'ada', 'premium', 'DE', 'organic', NULL, true, TIMESTAMP '2024-12-17 23:59:59.999999', NULL, true, false),
    (951706550607648352, 'ada', 'free', 'DE', 'organic', NULL, true, TIMESTAMP '2024-12-16 10:00:00', TIMESTAMP '2024-12-17 23:59:59.999999', false, false),
    (1671974357374537178, 'bob', NULL, NULL, NULL, NULL, NULL, TIMESTAMP '0001-01-01 00:00:00', NULL, true, true),
    (5895022002007112074, 'o''hara', NULL, NULL, NULL, NULL, NULL, TIMESTAMP '0001-01-01 00:00:00', NULL, true, true),
    (8171056046115965203, 'eve', NULL, NULL, NULL, NULL, NULL, TIMESTAMP '0001-01-01 00:00:00', NULL, true, true);

INSERT INTO dim_user_changes (idempotency_key, user_id, event_timestamp, plan_type, country, signup_channel, language, marketing_consent, lake_topic, lake_partition, lake_offset) VALUES
    ('s1', 'ada', TIMESTAMP '2024-12-16 10:00:00', 'free', 'DE', 'organic', NULL, true, 'events_raw', 0, 0),
    ('s2', 'ada', TIMESTAMP '2024-12-17 23:59:59.999999', 'premium', 'DE', 'organic', NULL, true, 'events_raw', 0, 4);

INSERT INTO fact_events (idempotency_key, user_key, time_key, device_key, event_type, event_timestamp, user_id, session_id, session_start, session_seq, page, order_id, product_id, product_category, quantity, purchase_amount, failed_amount, currency, payment_method, failure_reason, country, lake_topic, lake_partition, lake_offset, lake_file) VALUES
    ('f1', 8171056046115965203, 2024121800, NULL, 'payment_failed', TIMESTAMP '2024-12-18 00:00:00', 'eve', 'session-eve-20241218', TIMESTAMP '2024-12-18 00:00:00', 1, NULL, 'order-f1', NULL, NULL, NULL, NULL, 10.00, 'EUR', NULL, NULL, 'DE', 'events_raw', 0, 3, 36222002340585070),
    ('p1', 951706550607648352, 2024121710, 1, 'purchase', TIMESTAMP '2024-12-17 10:00:00', 'ada', 'session-ada-20241217', TIMESTAMP '2024-12-17 10:00:00', 1, NULL, 'order-p1', NULL, NULL, NULL, 19.99, NULL, 'EUR', NULL, NULL, 'DE', 'events_raw', 0, 1, 7764755769081830048),
    ('p2', 1671974357374537178, 2024121711, 1, 'purchase', TIMESTAMP '2024-12-17 11:00:00', 'bob', NULL, NULL, 1, NULL, 'order-p2', NULL, NULL, NULL, 10.00, NULL, 'EUR', NULL, NULL, 'DE', 'events_raw', 0, 2, 7764755769081830048),
    ('s1', 951706550607648352, 2024121610, 1, 'user_signup', TIMESTAMP '2024-12-16 10:00:00', 'ada', 'session-ada-20241216', TIMESTAMP '2024-12-16 10:00:00', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'DE', 'events_raw', 0, 0, 2622628607833578746),
    ('s2', 891297492688046858, 2024121723, 1, 'user_signup', TIMESTAMP '2024-12-17 23:59:59.999999', 'ada', 'session-ada-20241217', TIMESTAMP '2024-12-17 23:59:59.999999', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'DE', 'events_raw', 0, 4, 2662960223471778846),
    ('v1', 5895022002007112074, 2024121910, 1, 'page_view', TIMESTAMP '2024-12-19 10:00:00', 'o''hara', 'session-o''hara-20241219', TIMESTAMP '2024-12-19 10:00:00', 1, '/a;b--c', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'DE', 'events_raw', 0, 6, 6078951327887381437);

INSERT INTO fact_duplicates (idempotency_key, time_key, device_key, event_type, event_timestamp, user_id, session_id, session_start, session_seq, page, order_id, product_id, product_category, quantity, purchase_amount, failed_amount, currency, payment_method, failure_reason, country, plan_type, signup_channel, language, marketing_consent, is_change, lake_topic, lake_partition, lake_offset, lake_file) VALUES
    ('p1', 2024121910, 1, 'purchase', TIMESTAMP '2024-12-19 10:00:00', 'ada', 'session-ada-20241219', TIMESTAMP '2024-12-19 10:00:00', 1, NULL, 'order-p1', NULL, NULL, NULL, 19.99, NULL, 'EUR', NULL, NULL, 'DE', NULL, NULL, NULL, NULL, false, 'events_raw', 0, 5, 6078951327887381437);

INSERT INTO penstock_loads (pipeline, load_number, log_number, event_date, facts_inserted, facts_updated, facts_deleted, facts_repointed, duplicates, users_changed, finished_at) VALUES
    ('ecommerce', 1, 0, NULL, 4, 0, 0, 0, 0, 3, TIMESTAMP '2026-11-21 17:44:03.018973'),
    ('ecommerce', 2, 1, NULL, 2, 0, 0, 0, 1, 3, TIMESTAMP '2026-11-21 17:44:03.278273');

INSERT INTO penstock_schema (pipeline, version) VALUES
    ('ecommerce', 1);

