"""What all parts may need: whole and checked files, users' files, optional packages, random states, error sentences."""
