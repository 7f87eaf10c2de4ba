"""Back-test, what-if, compare: the same kernels over a range of what topics or archives keep. Knows no Faust.

In the order of the flow: `sources` (and `archive`) give raw records, `fold` takes them through the kernels, `workers`
share the partitions, `results` is what a run leaves behind; `run` puts these together. Then what is made of results:
`compare`, `score`, `diff`, `fit`, `correct`, and `report` shows it. `mirror` copies a generation of topics to rescale.
"""
