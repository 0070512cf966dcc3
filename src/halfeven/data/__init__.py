"""Samples for a model, one at a time: pictures, sound, arrays and Python iterables, prepared, checked and labelled."""
