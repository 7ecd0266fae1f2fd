-- From version 1 to 2, in a star: which days have facts. Nobody knows which load touched them; the last one may have.

INSERT INTO penstock_days (pipeline, event_date, load_number)
SELECT {pipeline}, days.event_date, loads.load_number
FROM (SELECT DISTINCT CAST(event_timestamp AS DATE) AS event_date FROM fact_events) AS days
CROSS JOIN (
    SELECT coalesce(max(load_number), 0) AS load_number FROM penstock_loads WHERE split_part(pipeline, '/', 1) = {pipeline}
) AS loads;
