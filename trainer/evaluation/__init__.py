"""Accuracy measured, kept and told: what was attempted, the figures with their intervals, and results that compare.

Asking the policy and its judge is `trainer/evaluate.py`; the command is `cli/evaluate.py`.
"""
