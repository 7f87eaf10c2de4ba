"""The contract between all parts: frame and record types, their Avro schemas, the codec, the table of topics.

Rule: this folder imports nothing of ours, and the wire format is known nowhere else.
"""
