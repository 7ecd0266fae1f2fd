"""The job with DuckDB, as one query.

    python duckdb_job.py EVENTS.jsonl OUT.parquet [--tool-typing]

DuckDB turns the number 12345 into text where text is asked for. So every field is read as JSON, which keeps the
quotes of text: one look at the first character tells the type. `--tool-typing` reads the fields as text: faster, and
not the same rows. Lines that are no JSON are skipped by `ignore_errors`.
"""

from __future__ import annotations

import sys

import duckdb

from shop import BYTE, FIELDS, NUMBERS, TEXTS

QUERY = """
COPY (
    WITH read AS (
        SELECT row_number() OVER () AS position, *
        FROM read_json($source, format = 'newline_delimited', ignore_errors = true, columns = {columns})
    ),
    typed AS (
        SELECT position, {texts},
               try_cast(event_timestamp AS TIMESTAMPTZ) AS event_timestamp,
               try_cast(load_time_ms AS BIGINT) AS load_time_ms, try_cast(quantity AS BIGINT) AS quantity,
               CASE WHEN regexp_full_match(amount::VARCHAR, '[0-9]{{1,10}}([.][0-9]{{1,2}}0*)?')
                    THEN amount::VARCHAR::DECIMAL(12, 2) END AS amount,
               try_cast(attempt AS BIGINT) AS attempt, try_cast(marketing_consent AS BOOLEAN) AS marketing_consent
        FROM read
        WHERE event_type IS NOT NULL {types}
    ),
    valid AS (
        SELECT * FROM typed
        WHERE schema_version = 'v1'
          AND regexp_full_match(idempotency_key, '[0-9A-Fa-f]{{8}}(-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}}')
          AND regexp_full_match(user_id, '[A-Za-z0-9_-]{{1,64}}')
          AND event_timestamp IS NOT NULL
          AND device_type IN ('desktop', 'mobile', 'tablet')
          AND os IN ('Windows', 'macOS', 'Linux', 'iOS', 'iPadOS', 'Android')
          AND browser IN ('Chrome', 'Edge', 'Firefox', 'Safari', 'Samsung Internet')
          AND regexp_full_match(country, '[A-Z]{{2}}')
          AND regexp_full_match(ip_address, '{ipv4}')
          AND (user_agent IS NULL OR length(user_agent) <= 512)
          AND (referrer IS NULL OR regexp_matches(referrer, '^[A-Za-z][A-Za-z0-9+.-]*:'))
          AND CASE event_type
              WHEN 'page_view' THEN page[1] = '/' AND length(page) <= 2048 AND load_time_ms BETWEEN 0 AND 600000
              WHEN 'purchase' THEN length(order_id) BETWEEN 1 AND 64 AND length(product_id) BETWEEN 1 AND 64
                  AND product_category IN
                      ('books', 'clothing', 'electronics', 'garden', 'groceries', 'home', 'sports', 'toys')
                  AND quantity BETWEEN 1 AND 1000 AND amount IS NOT NULL AND currency IN ('USD', 'EUR', 'GBP')
                  AND payment_method IN ('card', 'paypal', 'bank_transfer', 'gift_card')
              WHEN 'payment_failed' THEN length(order_id) BETWEEN 1 AND 64
                  AND (product_id IS NULL OR length(product_id) BETWEEN 1 AND 64)
                  AND amount IS NOT NULL AND currency IN ('USD', 'EUR', 'GBP')
                  AND payment_method IN ('card', 'paypal', 'bank_transfer', 'gift_card')
                  AND failure_reason IN
                      ('card_declined', 'insufficient_funds', 'expired_card', 'fraud_suspected', 'network_error')
                  AND attempt BETWEEN 1 AND 20
              WHEN 'user_signup' THEN plan_type IN ('free', 'basic', 'premium', 'enterprise')
                  AND signup_channel IN ('organic', 'ads', 'referral', 'email', 'partner')
                  AND (language IS NULL OR regexp_full_match(language, '[a-z]{{2}}(-[A-Z]{{2}})?'))
              ELSE false
          END
    ),
    kept AS MATERIALIZED (SELECT * FROM valid),
    -- Windows over rows of 28 columns cost twice as much: sessions are made of three columns, and joined again.
    firsts AS (SELECT min(position) AS position FROM kept GROUP BY idempotency_key),
    narrow AS (SELECT position, user_id, event_timestamp FROM kept SEMI JOIN firsts USING (position)),
    opened AS (
        SELECT *, coalesce(event_timestamp - lag(event_timestamp) OVER in_order > INTERVAL 30 MINUTES, true) AS opens
        FROM narrow
        WINDOW in_order AS (PARTITION BY user_id ORDER BY event_timestamp, position)
    ),
    numbered AS (
        SELECT *, max(CASE WHEN opens THEN event_timestamp END) OVER in_order AS session_start,
               row_number() OVER in_order AS nth
        FROM opened
        WINDOW in_order AS (PARTITION BY user_id ORDER BY event_timestamp, position ROWS UNBOUNDED PRECEDING)
    ),
    sessions AS (
        SELECT position, hash(user_id, session_start) AS session_id, session_start,
               nth - max(CASE WHEN opens THEN nth END)
                     OVER (PARTITION BY user_id ORDER BY nth ROWS UNBOUNDED PRECEDING) + 1 AS session_seq
        FROM numbered
    )
    SELECT kept.*, sessions.* EXCLUDE (position) FROM kept JOIN sessions USING (position)
) TO '{target}' (FORMAT parquet, COMPRESSION zstd)
"""


def main(source: str, target: str, *, check_types: bool) -> None:
    """Runs the job."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    not_times = [name for name in [*TEXTS, "referrer"] if name != "event_timestamp"]
    if check_types:
        kind = "JSON"
        texts = ", ".join(f"{name} ->> '$' AS {name}" for name in not_times)
        tests = [f"coalesce(left({name}::VARCHAR, 1) = '\"', true)" for name in TEXTS]
        tests += ["coalesce(left(referrer::VARCHAR, 1) IN ('\"', 'n'), true)"]
        tests += [f"coalesce(left({name}::VARCHAR, 1) BETWEEN '-' AND '9', true)" for name in NUMBERS]
        tests += ["coalesce(left(marketing_consent::VARCHAR, 1) IN ('t', 'f'), true)"]
        types = "AND " + " AND ".join(tests)
    else:
        kind, types = "VARCHAR", ""
        texts = ", ".join(not_times)
    query = QUERY.format(
        columns="{" + ", ".join(f"{name}: '{kind}'" for name in FIELDS) + "}",
        texts=texts, types=types, ipv4=r"\.".join([BYTE] * 4), target=target.replace("'", "''"),
    )  # fmt: skip
    if check_types:
        query = query.replace("try_cast(event_timestamp AS", "try_cast(event_timestamp ->> '$' AS")
    con.execute(query, {"source": source})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], check_types="--tool-typing" not in sys.argv[3:])
