"""Names of files that several parts write and look for; importing them needs nothing else."""

REPORT = "audit.safetensors"
"""A complete audit report in a folder."""
