"""Numbers: NumPy in, NumPy out; knows no graph, no clock, no random state."""
