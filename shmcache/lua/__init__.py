"""The five scripts that run inside Redis, one file each."""
