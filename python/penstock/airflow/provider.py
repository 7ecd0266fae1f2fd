"""What Airflow is told about this provider, when it starts."""

from __future__ import annotations

from typing import Any

_CONNECTIONS = {
    "kafka_conn_id": ("kafka", "where the topics are"),
    "aws_conn_id": ("aws", "how the bucket of the lake is reached"),
    "postgres_conn_id": ("postgres", "where the warehouse is"),
    "slack_conn_id": ("slackwebhook", "where alerts go"),
    "elasticsearch_conn_id": ("elasticsearch", "where documents go"),
}


def get_provider_info() -> dict[str, Any]:
    """The provider's parts, as Airflow's `provider_info.schema.json` has them. It imports nothing."""
    name = "Penstock"
    modules = ("run", "load", "quality", "maintenance", "payments")
    return {
        "package-name": "penstock",
        "name": name,
        "description": "Event streams into a lake and a warehouse, exactly once, without a cluster.",
        "integrations": [{"integration-name": name, "tags": ["software"]}],
        "operators": [
            {"integration-name": name, "python-modules": [f"penstock.airflow.{module}" for module in modules]}
        ],
        "sensors": [{"integration-name": name, "python-modules": ["penstock.airflow.sensor"]}],
        "triggers": [{"integration-name": name, "python-modules": ["penstock.airflow.trigger"]}],
        "notifications": ["penstock.airflow.notifier.PenstockNotifier"],
        "asset-uris": [{"schemes": ["penstock"], "handler": None}],
        "hooks": [{"integration-name": name, "python-modules": ["penstock.airflow.hook"]}],
        "config": {
            "penstock": {
                "description": "Settings of Penstock's operators.",
                "options": {
                    "project": _option(
                        "The folder where relative paths of pipeline files and of data begin.", "/opt/shop"
                    ),
                    "payments_schedule": _option(
                        "How often the DAG `process_kafka_to_postgres` runs: `@hourly` unless given.", "*/15 * * * *"
                    ),
                    **{
                        option: _option(
                            f"The connection of type `{kind}` that says {what}, unless a task names one.", ""
                        )
                        for option, (kind, what) in _CONNECTIONS.items()
                    },
                },
            }
        },
    }


def _option(description: str, example: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example or None,
        "default": "",
    }
