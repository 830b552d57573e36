"""What is worth learning from?

Rules over texts and over tables of narrow columns: near twins, leaks of test data, privacy, choice
and balance. It knows no file, no cluster and no stage; `prompts` and `curate` ask it.
"""
