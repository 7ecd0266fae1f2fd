-- The keys of the fixed dimensions. Run by the warehouse itself; user_key is looked up by the load, after dim_user.
SELECT
    s.*,
    d.device_key,
    CASE WHEN s.event_timestamp >= TIMESTAMP '2020-01-01 00:00:00' AND s.event_timestamp < TIMESTAMP '2031-01-01 00:00:00'
        THEN CAST(EXTRACT(year FROM s.event_timestamp) * 1000000 + EXTRACT(month FROM s.event_timestamp) * 10000
            + EXTRACT(day FROM s.event_timestamp) * 100 + EXTRACT(hour FROM s.event_timestamp) AS INTEGER)
        END AS time_key,
    s.event_type = 'user_signup' AS is_change
FROM staged AS s
LEFT JOIN dim_device AS d ON d.device_type = s.device_type AND d.os = s.os AND d.browser = s.browser
