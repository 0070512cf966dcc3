"""Execution of models."""
