"""C99 for bare metal: integers only, no heap, one planned arena."""
