"""The auditor: compares what the plant says it sent with what InfluxDB holds.

It shares no code with what it checks: of ours it imports `schemas` only, for the meaning of flags and marks.
"""
