"""How do files become rows? JSONL, JSON, CSV, TSV, Parquet and Arrow, in folders or one by one.

Rows come with their lines, and one bad line costs itself. What the columns mean is said elsewhere:
by the stage `prompts`, and, of test data that must not be learnt, by held_out.py.
"""
