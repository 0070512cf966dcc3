"""Exact integer execution: a network's codes as a machine computes them."""
