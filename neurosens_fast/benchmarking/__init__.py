"""What the benchmarks are made of: contests timed in turn, the roof of the machine, results, tables and comparisons.

The cases themselves stand in ``benchmarks/``, one folder per suite; ``neurosens-fast bench`` runs them.
"""
