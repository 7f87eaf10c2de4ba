"""Stages as processes: Faust wiring around the kernels.

Rule: imports `schemas`, `kernels`, `runtime` and `store`; only `agents/stage.py` and what it is built from know Faust.
"""
