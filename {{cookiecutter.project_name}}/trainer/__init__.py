"""The training loop, and what makes it exact and crash-safe."""
