"""From the field to Kafka: MQTT and OPC UA readings become frames in the raw topic, one process per connector.

Rule: this folder imports `schemas` and `runtime` only; it never validates, never changes a value and knows no agent.
"""
