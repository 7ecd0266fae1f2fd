-- What people look at. The same statements run on DuckDB and PostgreSQL.

-- Amounts are added up over all currencies, as they always were; hourly_metrics_by_currency keeps them apart.
CREATE OR REPLACE VIEW hourly_metrics AS
SELECT
    event_hour,
    count(*) AS total_transactions,
    CAST(sum(amount) AS DECIMAL(38, 2)) AS total_amount,
    count(CASE WHEN is_late THEN 1 END) AS late_transactions,
    CAST(count(CASE WHEN is_late THEN 1 END) AS DOUBLE PRECISION) / count(*) AS late_ratio
FROM transactions_clean
GROUP BY event_hour;

CREATE OR REPLACE VIEW hourly_metrics_by_currency AS
SELECT
    event_hour,
    currency,
    count(*) AS total_transactions,
    CAST(sum(amount) AS DECIMAL(38, 2)) AS total_amount,
    count(CASE WHEN is_late THEN 1 END) AS late_transactions,
    CAST(count(CASE WHEN is_late THEN 1 END) AS DOUBLE PRECISION) / count(*) AS late_ratio
FROM transactions_clean
GROUP BY event_hour, currency;
