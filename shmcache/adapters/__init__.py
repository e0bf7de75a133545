"""Thin doors for programs that speak another cache's API, or live in a framework."""
