"""The built-in world "outcome only": the tasks of the house dialect, where nothing but success or failure is said."""
