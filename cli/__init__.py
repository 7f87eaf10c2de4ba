"""The command line `twin`: every command parses its arguments, calls one function elsewhere and prints.

Rule: no logic that another part could need.
"""
