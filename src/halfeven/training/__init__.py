"""Fake quantizers for PyTorch, which have the bits of `numerics` and gradients for training."""
