"""ExecuTorch programs (.pte) for its XNNPACK backend."""
