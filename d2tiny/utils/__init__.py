"""Layer 0: errors, registries, checks and the machine. Imports nothing of d2tiny."""
