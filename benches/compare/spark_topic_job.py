"""The job with Spark Structured Streaming, from a topic, on two cores of this machine: everything that is there.

    python spark_topic_job.py JARS BROKERS TOPIC OUT CORES

JARS is the folder of the connector to Kafka. Valid events are deduplicated by key within the watermark and written as
Parquet, with a checkpoint from which it would go on. Sessions are left out: a stream of Spark's has no windows over
rows, so they would need a second stream or code of one's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from spark_job import end, session, valid


def main(jars: str, brokers: str, topic: str, target: str, cores: str = "2") -> None:
    """Runs the job."""
    spark = session(cores, **{"spark.jars": ",".join(str(jar) for jar in sorted(Path(jars).glob("*.jar")))})
    messages = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", brokers)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .load()
    )
    messages.selectExpr("CAST(value AS STRING) AS value").createOrReplaceTempView("source")
    # As in the other job: what is not deterministic keeps each line from being parsed more than once.
    events = spark.sql(valid("rand()") + "SELECT * EXCEPT (position) FROM valid")
    stream = (
        events.withWatermark("event_timestamp", "10 minutes")
        .dropDuplicatesWithinWatermark(["idempotency_key"])
        .writeStream.trigger(availableNow=True)
        .option("checkpointLocation", f"{target}.checkpoint")
        .start(target, format="parquet", outputMode="append")
    )
    stream.awaitTermination()
    end(spark)


if __name__ == "__main__":
    main(*sys.argv[1:])
