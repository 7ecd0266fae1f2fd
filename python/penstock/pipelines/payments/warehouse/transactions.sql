-- From a Silver row to a row of `transactions`. Always run by DuckDB; `silver` is the Silver files of this load, {bronze}
-- the Bronze that they came from: it is read where a row does not say itself when it was processed. So the time is that of
-- the data, never that of a load.
SELECT
    s.transaction_id,
    s.user_id,
    s.amount,
    s.currency,
    s.status,
    s.event_time AT TIME ZONE 'UTC' AS event_time,
    coalesce(s.processing_time, b.timestamp, b.ingested_at) AT TIME ZONE 'UTC' AS processing_time,
    s._topic AS lake_topic,
    s._partition AS lake_partition,
    s._offset AS lake_offset,
    s.lake_file
FROM silver AS s
LEFT JOIN {bronze} AS b ON b.topic = s._topic AND b.partition = s._partition AND b."offset" = s._offset
