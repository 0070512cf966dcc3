"""Decisions: each step is a frozen dataclass, Draft in, Draft out."""
