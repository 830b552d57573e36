"""What is a judge asked, what did it say, and what do its verdicts come to?

Pure functions: questions of a rubric and answers, verdicts read out of replies, and their sums.
Who judges, what it costs and where replies lie is not known here (engine/asking/judging.py).
"""
