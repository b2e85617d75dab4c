"""Leaves that models and data share: typed paths, users' files, optional packages, random state, error sentences."""
