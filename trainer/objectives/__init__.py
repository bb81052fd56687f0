"""Objectives: pure functions on tensors. They know no model, no rows and no settings."""
