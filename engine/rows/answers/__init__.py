"""What does a text say in the end? Rules per kind of answer: numbers, values, labels, phrases.

They read text only. They ask no algebra system, no model and no disk; what they cannot decide they
say, and engine/rows/final_answer.py gives it to whoever can.
"""
