"""The simulator: the core, or whole runs, under a virtual clock, with faults from a seed and an oracle beside them.

Tests import it as `simulator`: pytest and mypy have this package's folder on their path.
"""
