"""Deterministic simulation: the library's own code, run under a seeded scheduler."""
