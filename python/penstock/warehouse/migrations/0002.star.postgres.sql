-- From version 1 to 2, in a star in PostgreSQL: its indexes.

CREATE INDEX IF NOT EXISTS fact_events_event_timestamp ON fact_events (event_timestamp);
CREATE INDEX IF NOT EXISTS fact_events_user_id ON fact_events (user_id);
CREATE INDEX IF NOT EXISTS fact_events_user_key ON fact_events (user_key);
CREATE INDEX IF NOT EXISTS fact_events_lake_file ON fact_events (lake_file);
CREATE INDEX IF NOT EXISTS fact_duplicates_idempotency_key ON fact_duplicates (idempotency_key);
CREATE INDEX IF NOT EXISTS dim_user_user_id ON dim_user (user_id, effective_start_date);
CREATE INDEX IF NOT EXISTS dim_user_changes_user_id ON dim_user_changes (user_id);
