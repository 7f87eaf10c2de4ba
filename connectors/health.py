"""Health of a connector: see `runtime/health.py`."""

from runtime.health import Health

__all__ = ["Health"]
