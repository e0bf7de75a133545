"""The C core and its binding; no promise to users."""
