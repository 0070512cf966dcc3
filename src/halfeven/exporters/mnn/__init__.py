"""MNN: parameters for its converter, and models that it made."""
