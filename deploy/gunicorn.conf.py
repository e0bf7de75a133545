"""gunicorn -c deploy/gunicorn.conf.py: what `shmcache serve` runs, under gunicorn's own
command line. SHMCACHE_CONFIG names the TOML file with the settings of the cache; what
gunicorn alone has (TLS, user, pid file) may be set below."""

from shmcache_server.arbiter import or_exit, settings
from shmcache_server.config import load

globals().update(settings(or_exit(load)))

# pidfile = "/run/shmcache.pid"
# user = "shmcache"
