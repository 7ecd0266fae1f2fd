"""What a DAG has to know of a dbt project: its models, without dbt and without a connection.

dbt's own manifest holds the whole project; a file of DAGs is read again and again. `make dbt-manifest` writes this part
of it into the project, as `manifest.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NODE = ("alias", "fqn", "name", "original_file_path", "package_name", "path", "resource_type", "tags", "unique_id")
_CONFIG = ("enabled", "materialized", "meta", "tags")


def trimmed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The models of a manifest and what each needs."""
    models = {name: node for name, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    nodes = {
        name: {
            **{key: node[key] for key in _NODE},
            "config": {key: node["config"][key] for key in _CONFIG},
            "depends_on": {"nodes": sorted(above for above in node["depends_on"]["nodes"] if above in models)},
        }
        for name, node in sorted(models.items())
    }
    return {
        "metadata": {"project_name": manifest["metadata"]["project_name"]},
        "nodes": nodes,
        **{part: {} for part in ("sources", "exposures", "child_map", "parent_map")},
    }


def text(manifest: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(trimmed(manifest), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(text(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
