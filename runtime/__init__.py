"""What every process needs before it does its work: configuration, logs, metrics, exit codes, Kafka's topics.

Rule: imports `schemas` only, and knows nothing of any protocol or stage.
"""
