"""Evidence: streaming summaries of tensors, and the ranges concluded from them."""
