-- From version 1 to 2, in PostgreSQL: the indexes of the loads.

CREATE INDEX IF NOT EXISTS penstock_loads_log_number ON penstock_loads (pipeline, log_number) WHERE event_date IS NULL;
CREATE INDEX IF NOT EXISTS penstock_loads_of_all_shards ON penstock_loads (split_part(pipeline, '/', 1), load_number);
CREATE INDEX IF NOT EXISTS penstock_loads_load_id ON penstock_loads (load_id);
CREATE INDEX IF NOT EXISTS penstock_loads_lake ON penstock_loads (pipeline, load_number) WHERE lake IS NOT NULL;
