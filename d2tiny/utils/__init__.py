"""Errors, registries, checks, files and hardware; imports nothing else of d2tiny."""
