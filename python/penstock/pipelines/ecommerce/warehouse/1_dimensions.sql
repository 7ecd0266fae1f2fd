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
