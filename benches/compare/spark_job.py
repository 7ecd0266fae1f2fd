"""The job with Spark, as one query, on two cores of this machine.

    python spark_job.py EVENTS.jsonl OUT.parquet [CORES]

Spark turns the number 12345 into text where text is asked for. As in the job of Polars, lines that cannot be objects
are left out first, and one regular expression over each line finds values of the wrong type.
"""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession

from shop import BYTE, FIELDS, TEXTS, WRONG_TYPE

VALID = """
WITH fields AS (
    -- Both in one place: what is not deterministic keeps Spark from parsing the line again for each condition below.
    SELECT $position AS position, from_json(value, '$schema') AS event FROM source
    WHERE startswith(value, '{') AND endswith(value, '}') AND NOT value RLIKE '$wrong_type'
),
typed AS (
    SELECT position, $texts, try_cast(event.event_timestamp AS TIMESTAMP) AS event_timestamp,
           try_cast(event.load_time_ms AS BIGINT) AS load_time_ms, try_cast(event.quantity AS BIGINT) AS quantity,
           CASE WHEN event.amount RLIKE '^[0-9]{1,10}([.][0-9]{1,2}0*)?$'
                THEN try_cast(event.amount AS DECIMAL(12, 2)) END AS amount,
           try_cast(event.attempt AS BIGINT) AS attempt,
           try_cast(event.marketing_consent AS BOOLEAN) AS marketing_consent
    FROM fields
),
valid AS (
    SELECT * FROM typed
    WHERE schema_version = 'v1'
      AND idempotency_key RLIKE '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
      AND user_id RLIKE '^[A-Za-z0-9_-]{1,64}$'
      AND event_timestamp IS NOT NULL
      AND device_type IN ('desktop', 'mobile', 'tablet')
      AND os IN ('Windows', 'macOS', 'Linux', 'iOS', 'iPadOS', 'Android')
      AND browser IN ('Chrome', 'Edge', 'Firefox', 'Safari', 'Samsung Internet')
      AND country RLIKE '^[A-Z]{2}$'
      AND ip_address RLIKE '^$ipv4$'
      AND (user_agent IS NULL OR length(user_agent) <= 512)
      AND (referrer IS NULL OR referrer RLIKE '^[A-Za-z][A-Za-z0-9+.-]*:')
      AND CASE event_type
          WHEN 'page_view' THEN startswith(page, '/') AND length(page) <= 2048 AND load_time_ms BETWEEN 0 AND 600000
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
              AND (language IS NULL OR language RLIKE '^[a-z]{2}(-[A-Z]{2})?$')
          ELSE false
      END
)
"""

SESSIONS = """,
ranked AS (SELECT *, row_number() OVER (PARTITION BY idempotency_key ORDER BY position) AS copy FROM valid),
opened AS (
    SELECT *, coalesce(event_timestamp - lag(event_timestamp) OVER in_order > INTERVAL 30 MINUTES, true) AS opens
    FROM ranked WHERE copy = 1
    WINDOW in_order AS (PARTITION BY user_id ORDER BY event_timestamp, position)
),
numbered AS (
    SELECT *, max(CASE WHEN opens THEN event_timestamp END) OVER so_far AS session_start,
           sum(CASE WHEN opens THEN 1 ELSE 0 END) OVER so_far AS visit
    FROM opened
    WINDOW so_far AS (PARTITION BY user_id ORDER BY event_timestamp, position ROWS UNBOUNDED PRECEDING)
)
SELECT * EXCEPT (position, copy, opens, visit), xxhash64(user_id, session_start) AS session_id,
       CAST(row_number() OVER (PARTITION BY user_id, visit ORDER BY event_timestamp, position) AS BIGINT) AS session_seq
FROM numbered
"""


def session(cores: str, **more: str) -> SparkSession:
    """Spark on so many cores of this machine."""
    builder = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.driver.memory", "6g")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", cores)
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.ui.enabled", "false")
        # What follows from so many conditions takes the optimiser minutes to find out.
        .config("spark.sql.constraintPropagation.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.log.level", "ERROR")
    )
    for name, value in more.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def valid(position: str) -> str:
    """What leaves the valid events of `source`, which has their text; `position` is put beside each."""
    texts = [name for name in [*TEXTS, "referrer"] if name != "event_timestamp"]
    given = {
        "wrong_type": WRONG_TYPE,
        "position": position,
        "schema": ", ".join(f"{name} STRING" for name in FIELDS),
        "texts": ", ".join(f"event.{name}" for name in texts),
        "ipv4": "[.]".join([BYTE] * 4),
    }
    query = VALID
    for name, value in given.items():
        query = query.replace(f"${name}", value)
    return query


def end(spark: SparkSession) -> None:
    """Ends it. The virtual machine is waited for: its time and memory count with those of this process."""
    machine = spark.sparkContext._gateway  # noqa: SLF001
    spark.stop()
    machine.shutdown()
    machine.proc.stdin.close()
    machine.proc.wait()


def main(source: str, target: str, cores: str = "2") -> None:
    """Runs the job."""
    spark = session(cores)
    spark.read.text(source).createOrReplaceTempView("source")
    query = valid("monotonically_increasing_id()") + SESSIONS
    spark.sql(query).write.mode("overwrite").parquet(target)
    end(spark)


if __name__ == "__main__":
    main(*sys.argv[1:])
