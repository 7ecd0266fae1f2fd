-- The rows of `transactions_clean`, all of them or those of some ids: {scope}. Run by the warehouse itself.
SELECT
    transaction_id,
    user_id,
    amount,
    currency,
    status,
    event_time,
    processing_time,
    CAST(event_time AS DATE) AS event_date,
    date_trunc('hour', event_time) AS event_hour,
    CAST(EXTRACT(epoch FROM (processing_time - event_time)) AS DECIMAL(18, 6)) AS latency_seconds,
    coalesce(processing_time - event_time > INTERVAL '2' MINUTE, false) AS is_late
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY transaction_id ORDER BY event_time, lake_topic COLLATE "C", lake_partition, lake_offset
        ) AS place
    FROM transactions
    WHERE {scope}
) AS ranked
WHERE place = 1
