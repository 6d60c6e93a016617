"""Fuzzing of what reads bytes from a store, a user or a stranger; see `__main__`."""
