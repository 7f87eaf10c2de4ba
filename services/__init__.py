"""Start real Kafka, InfluxDB and mosquitto on one machine without Docker, and keep processes running.

Imports nothing of ours: what the processes do, which topics exist and what a reading is, is not known here.
"""
