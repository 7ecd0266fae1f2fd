-- What the dimensions hold from the start. The same statements run on DuckDB and PostgreSQL.

-- What all hours of a day have in common is found once a day.
INSERT INTO dim_time
SELECT
    day_key * 100 + hour,
    midnight + hour * INTERVAL '1' HOUR,
    date,
    year,
    quarter,
    month,
    month_name,
    week,
    day,
    day_of_week,
    day_name,
    hour,
    day_of_week >= 6
FROM (
    SELECT
        midnight,
        CAST(midnight AS DATE) AS date,
        year * 10000 + month * 100 + day AS day_key,
        year,
        quarter,
        month,
        CASE month
            WHEN 1 THEN 'January' WHEN 2 THEN 'February' WHEN 3 THEN 'March' WHEN 4 THEN 'April' WHEN 5 THEN 'May'
            WHEN 6 THEN 'June' WHEN 7 THEN 'July' WHEN 8 THEN 'August' WHEN 9 THEN 'September' WHEN 10 THEN 'October'
            WHEN 11 THEN 'November' ELSE 'December' END AS month_name,
        week,
        day,
        day_of_week,
        CASE day_of_week
            WHEN 1 THEN 'Monday' WHEN 2 THEN 'Tuesday' WHEN 3 THEN 'Wednesday' WHEN 4 THEN 'Thursday'
            WHEN 5 THEN 'Friday' WHEN 6 THEN 'Saturday' ELSE 'Sunday' END AS day_name
    FROM (
        SELECT
            midnight,
            CAST(EXTRACT(year FROM midnight) AS INTEGER) AS year,
            CAST(EXTRACT(quarter FROM midnight) AS INTEGER) AS quarter,
            CAST(EXTRACT(month FROM midnight) AS INTEGER) AS month,
            CAST(EXTRACT(week FROM midnight) AS INTEGER) AS week,
            CAST(EXTRACT(day FROM midnight) AS INTEGER) AS day,
            CAST(EXTRACT(isodow FROM midnight) AS INTEGER) AS day_of_week
        FROM generate_series(TIMESTAMP '2020-01-01 00:00:00', TIMESTAMP '2030-12-31 00:00:00', INTERVAL '1' DAY)
            AS midnights (midnight)
        -- A database that takes no part of this query into the one above it asks for each part of a date once.
        OFFSET 0
    ) AS days
    OFFSET 0
) AS named
CROSS JOIN generate_series(0, 23) AS hours (hour)
ORDER BY 1;

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
