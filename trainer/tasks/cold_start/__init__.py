"""The built-in world "cold start": the tasks of the house dialect, for a model that cannot use what it is told."""
