"""How good a model is.

`metrics` has the statistics, `tables` applies them to judgements and votes, `report` draws them; `sqllm evaluate` makes
the judgements. `python -m sqllm.evaluation` holds what needs no votes: `severity` (faults of known strength) and
`words` (answers against what was done to a clip).
"""
