"""Names of files that several parts write and look for; importing them needs nothing else."""

REPORT = "audit.safetensors"
"""A complete audit report in a folder."""

FRAGILITY_REPORT = "fragility.safetensors"
"""A complete report of fragile and robust neurons in a folder."""
