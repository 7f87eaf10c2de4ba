"""The errors this package raises; each message is written to be shown to a person as it is."""


class ServiceError(RuntimeError):
    """A service or a process could not be installed, started, reached or stopped."""


class MissingToolError(ServiceError):
    """A program needed to build or run a service is not installed."""
