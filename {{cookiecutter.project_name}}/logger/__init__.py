"""Observers of a run: what they are told goes to the terminal, to files, and to tracking services."""
