"""`python -m shmcache_server` is `shmcache`."""

from .cli import main

if __name__ == "__main__":
    main()
