"""shmcache_server: the HTTP cache server; `shmcache serve` runs it.

cli       the command line               config    its settings
arbiter   the master's side of gunicorn  worker    the worker's side
app       the wiring of one worker       embedded  a child redis-server
fastlane  hits, answered as they come in     _splice   one of them, in C
handler   every other request            key       what it is asked for by
fetch     misses, shared by who waits    live      a response on its way
origins   where misses are fetched       connections  the pool to them
answer    what is sent                   upload    what a client sends
stored    a response in the cache        rfc9111/  the caching rules, pure
admin     what an operator may ask
"""
