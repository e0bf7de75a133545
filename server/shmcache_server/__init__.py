"""shmcache_server: the HTTP cache server; `shmcache serve` runs it.

cli       the command line               config    its settings
arbiter   the master's side of gunicorn  worker    the worker's side
app       the wiring of one worker       embedded  a child redis-server
handler   every request, from key to answer
live      a response on its way          stored    a response in the cache
origins   where misses are fetched       rfc9111/  the caching rules, pure
"""
