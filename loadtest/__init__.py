"""Load and comparison: what drives the servers, and what measures them."""
