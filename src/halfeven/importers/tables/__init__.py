"""Tables: files that name tensors and say by which scale each is quantized, read back into plans."""
