"""Java, and Apache Kafka's classes from Maven Central, fetched once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from services import cache, locked, missing, need

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "4.3.1"
POM = f"""
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>kafka-libs</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.4</version><scope>runtime</scope></dependency>
  </dependencies></project>
"""


def java(classpath: str, *, heap: str, quick: bool = True, archive: Path | None = None) -> list[str]:
    """The command that starts a class of Kafka's."""
    command = [_java(), f"-Xmx{heap}", "-Xms64m", "-XX:+UseSerialGC", "-Xlog:disable", "-Xlog:all=error:stderr"]
    if quick:
        command.append("-XX:TieredStopAtLevel=1")
    if archive and archive.exists():
        command.append(f"-XX:SharedArchiveFile={archive}")
    return [*command, "-cp", classpath]


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else "java"


def install(keep_classes: Callable[[str, Path], None]) -> tuple[str, Path]:
    """Fetch Kafka once. Gives its class path and the archive of its classes (a quicker start).

    Args:
        keep_classes: Makes the archive where there is none, of this class path.
    """
    if not shutil.which(_java()):
        missing("Apache Kafka needs Java 17 or newer on PATH (Debian: apt-get install openjdk-17-jre-headless maven)")
    said = subprocess.run([_java(), "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "((\d+)[^"]*)"', said)
    if not version or int(version[2]) < 17:
        missing(f"Apache Kafka {VERSION} needs Java 17 or newer; found: {said.splitlines()[:1]}")
    folder = cache() / f"kafka-{VERSION}"
    archive = folder / f"classes-{re.sub('[^0-9A-Za-z.+-]', '-', version[1])}.jsa"
    with locked("kafka"):
        if not (folder / "libs").is_dir():
            need("mvn", why="fetching Apache Kafka")
            _fetch(folder)
        classpath = ":".join(str(jar) for jar in sorted((folder / "libs").glob("*.jar")))
        if not archive.exists():
            keep_classes(classpath, archive)
    return classpath, archive


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        (Path(work) / "pom.xml").write_text(POM)
        for left in (2, 1, 0):
            done = subprocess.run(
                [
                    "mvn",
                    "-B",
                    "-q",
                    "dependency:copy-dependencies",
                    "-DincludeScope=runtime",
                    f"-DoutputDirectory={work}/libs",
                ],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                (Path(work) / "libs").rename(folder / "libs")
                return
            if not left:
                missing(f"Apache Kafka {VERSION} cannot be fetched from Maven Central: {done.stdout[-2000:]}")
