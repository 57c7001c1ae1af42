"""Datasets and how their samples reach the model: splits, order, batches, randomness."""
