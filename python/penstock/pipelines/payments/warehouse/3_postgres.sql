-- Indexes, in PostgreSQL alone: DuckDB finds what it looks for without.

CREATE INDEX transactions_transaction_id ON transactions (transaction_id);
CREATE INDEX transactions_load_number ON transactions (load_number);
CREATE INDEX transactions_lake_file ON transactions (lake_file);
CREATE INDEX transactions_event_time ON transactions (event_time);
CREATE INDEX transactions_clean_event_time ON transactions_clean (event_time);
CREATE INDEX transactions_clean_user_id ON transactions_clean (user_id);
CREATE INDEX transactions_clean_is_late ON transactions_clean (is_late);
