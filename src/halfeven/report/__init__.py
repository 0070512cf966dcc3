"""Analysis of what quantization cost."""
