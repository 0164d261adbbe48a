"""The benchmark: the adapter's speed and memory beside its alternatives, in one process."""
