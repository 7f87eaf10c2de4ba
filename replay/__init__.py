"""Back-test, what-if, compare: the same kernels over a range of what topics or archives keep. Knows no Faust.

Reads in the order of the flow: span, source, chain, workers, what writes results; then what is made of results.
"""
