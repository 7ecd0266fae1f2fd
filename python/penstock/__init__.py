"""Event streams into tables, without a cluster: every event accounted for."""

__version__ = "0.1.0"
