-- Of the tables of the loads, in PostgreSQL: indexes. With `fill: epoch` each epoch is a load, and looks for those before it.

CREATE INDEX penstock_loads_log_number ON penstock_loads (pipeline, log_number) WHERE event_date IS NULL;
CREATE INDEX penstock_loads_of_all_shards ON penstock_loads (split_part(pipeline, '/', 1), load_number);
CREATE INDEX penstock_loads_load_id ON penstock_loads (load_id);
CREATE INDEX penstock_loads_lake ON penstock_loads (pipeline, load_number) WHERE lake IS NOT NULL;
