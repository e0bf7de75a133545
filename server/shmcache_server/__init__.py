"""shmcache_server: the HTTP cache server; `shmcache serve` runs it.

cli          the command line                 config     its settings
arbiter      the master's side of gunicorn    worker     the worker's side
app          the wiring of one worker         embedded   a child redis-server
fastlane     hits, answered as they come in   _splice    one of them, in C
handler      every other request              key        what it is asked for by
routes       what is in a key, by path        forwarded  what the origin is told
shelf        where an answer stands           variants   of a URL that varies
fetch        misses, shared by who waits      wanted     what is asked for them
live         a response on its way            relay      ... to the other workers
origins      where misses are fetched         upstreams  which of them, and whether
connections  the pools to them                tunnel     WebSockets between the two
sharing      may a response answer all        rfc9111/   the caching rules, pure
answer       what is sent                     upload     what a client sends
stored       a response in the cache          parts      ranges of it
purge        what is to be removed            purges     by whom, and how
tags         labels and prefixes for it       client     asks a running server
admin        what an operator may ask         doctor     looks at a segment
"""
