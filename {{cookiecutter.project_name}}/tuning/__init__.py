"""Search for hyperparameters; see tune.py."""
