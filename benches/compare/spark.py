"""The jobs of run.py and kafka.py beside Spark on two cores of this machine; `make bench-spark` brings PySpark.

    python benches/compare/spark.py --spark PYTHON [--events 1000000] [--rounds 3] [--only file|topic]

PYTHON is one that has PySpark. The file is read by one query, the topic by Structured Streaming (Trigger.AvailableNow,
with a checkpoint), whose connector to Kafka comes by Maven. The rows are compared before anything is timed; peak memory
is that of the largest process. The table goes to standard output and to benches/out/spark.md, the numbers to
benches/out/spark.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import common
import kafka
import run

HEADER = ["job", "wall", "of spark's", "CPU", "peak memory", "rows"]
# The newest whose parts could all be had; a later Spark takes them.
CONNECTOR = [
    ("org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0"),
    ("org.apache.spark", "spark-token-provider-kafka-0-10_2.13", "4.0.0"),
    ("org.apache.kafka", "kafka-clients", "3.9.2"),
    ("org.apache.commons", "commons-pool2", "2.13.1"),
]
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
JARS = kafka.ROOT / "target" / "spark-kafka"


def connector() -> Path:
    """The folder of Spark's connector to Kafka, fetched once; all that it needs beside is in Spark."""
    if not JARS.exists():
        dependencies = "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>{ALONE}"
            "</dependency>"
            for group, name, version in CONNECTOR
        )
        JARS.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=JARS.parent) as work:
            (Path(work) / "pom.xml").write_text(
                '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>bench</groupId>'
                "<artifactId>spark-kafka</artifactId><version>1</version><packaging>pom</packaging>"
                f"<dependencies>{dependencies}</dependencies></project>"
            )
            fetch = ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={work}/jars"]
            subprocess.run(fetch, cwd=work, check=True, stdout=sys.stderr)
            (Path(work) / "jars").rename(JARS)
    return JARS


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spark", required=True, metavar="PYTHON")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["file", "topic"], default="")
    options = parser.parse_args()
    told = [options.spark, "-c", "import pyspark; print(pyspark.__version__)"]
    version = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    where = common.machine()
    jars = connector()
    groups: list[list[run.Contestant]] = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, kafka.broker(None) as brokers:
        folder = Path(name)
        source, out, log = folder / "events.jsonl", folder / "out", folder / "log"
        expected = run.generate(source, options.events)
        glob = str(out / "spark" / "*.parquet")
        if options.only != "topic":
            job = [options.spark, str(common.HERE / "spark_job.py"), str(source), str(out / "spark")]
            ours = [one for one in run.contestants(source, out) if one.name.startswith("penstock")]
            groups.append([*ours, run.Contestant(f"spark {version}, local[2]", job, glob)])
        if options.only != "file":
            topic = kafka.fill(brokers, options.events, 4)
            job = [options.spark, str(common.HERE / "spark_topic_job.py"), str(jars), brokers, topic]
            silver = {"layers": ["silver"], "durability": "process"}
            groups.append(
                [
                    kafka.drains(
                        "topic: penstock run, layers [silver], durability process", out, brokers, topic, **silver
                    ),
                    kafka.drains("topic: penstock run, defaults", out, brokers, topic),
                    run.Contestant(
                        f"topic: spark {version}, local[2], without sessions",
                        [*job, str(out / "spark")],
                        glob,
                        sessions=False,
                    ),
                ]
            )
        for group in groups:
            run.check(group, out, log, expected)
        run.take_turns([one for group in groups for one in group], options.rounds, out, log)
    cells = []
    for group in groups:
        spark = statistics.median(group[-1].wall)
        cells += [
            [
                one.name,
                f"{statistics.median(one.wall):.2f} s",
                "1" if one is group[-1] else f"1/{spark / statistics.median(one.wall):.1f}",
                f"{statistics.median(one.cpu):.2f} s",
                f"{statistics.median(one.memory):,.0f} MiB",
                f"{one.rows:,}",
            ]
            for one in group
        ]
    text = (
        f"{options.events:,} events; medians of {options.rounds}; whole processes.\n{common.described(where)}\n\n"
        f"{common.table(HEADER, cells)}"
    )
    jobs = [asdict(one) for group in groups for one in group]
    common.keep("spark", text, {"machine": where, "spark": version, "jobs": jobs})


if __name__ == "__main__":
    main()
