"""Rolls out, asks for feedback, and learns: collector and learner, objectives and algorithms."""
