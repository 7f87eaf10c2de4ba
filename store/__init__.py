"""How readings, states and alerts stand in InfluxDB, and the client that writes them.

Knows nothing of Kafka, of Faust, of where records come from: the sink and a replay write the same points.
"""
