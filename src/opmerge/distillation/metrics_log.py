"""Where ``opmerge.cli`` looks for the log of a run directory."""

from opmerge.metrics_log import MetricsLog

__all__ = ["MetricsLog"]
