"""Quality of a day's data: fresh, of the usual volume, complete, and few dead letters; with an alert when it is not."""

from penstock.quality.alert import Alert, Slack
from penstock.quality.checks import CheckResult, QualityReport, Thresholds, run_checks

__all__ = ["Alert", "CheckResult", "QualityReport", "Slack", "Thresholds", "run_checks"]
