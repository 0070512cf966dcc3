"""Realization: a draft becomes files."""
