-- What the dimensions hold from the start. The same statements run on DuckDB and PostgreSQL.

INSERT INTO dim_time
SELECT
    CAST(EXTRACT(year FROM h) * 1000000 + EXTRACT(month FROM h) * 10000 + EXTRACT(day FROM h) * 100
        + EXTRACT(hour FROM h) AS INTEGER),
    h,
    CAST(h AS DATE),
    CAST(EXTRACT(year FROM h) AS INTEGER),
    CAST(EXTRACT(quarter FROM h) AS INTEGER),
    CAST(EXTRACT(month FROM h) AS INTEGER),
    CASE CAST(EXTRACT(month FROM h) AS INTEGER)
        WHEN 1 THEN 'January' WHEN 2 THEN 'February' WHEN 3 THEN 'March' WHEN 4 THEN 'April' WHEN 5 THEN 'May'
        WHEN 6 THEN 'June' WHEN 7 THEN 'July' WHEN 8 THEN 'August' WHEN 9 THEN 'September' WHEN 10 THEN 'October'
        WHEN 11 THEN 'November' ELSE 'December' END,
    CAST(EXTRACT(week FROM h) AS INTEGER),
    CAST(EXTRACT(day FROM h) AS INTEGER),
    CAST(EXTRACT(isodow FROM h) AS INTEGER),
    CASE CAST(EXTRACT(isodow FROM h) AS INTEGER)
        WHEN 1 THEN 'Monday' WHEN 2 THEN 'Tuesday' WHEN 3 THEN 'Wednesday' WHEN 4 THEN 'Thursday' WHEN 5 THEN 'Friday'
        WHEN 6 THEN 'Saturday' ELSE 'Sunday' END,
    CAST(EXTRACT(hour FROM h) AS INTEGER),
    EXTRACT(isodow FROM h) >= 6
FROM generate_series(TIMESTAMP '2020-01-01 00:00:00', TIMESTAMP '2030-12-31 23:00:00', INTERVAL '1' HOUR) AS hours (h);

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
