"""From a raw record to the state of the twin, without Kafka: the kernels' steps over a range."""
