"""HTTP hits and misses, ours beside its peers: how each runs, what each is asked."""
