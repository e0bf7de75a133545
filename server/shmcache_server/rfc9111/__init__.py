"""The caching rules of RFC 9111, one file per chapter: pure, time as an argument.

directives §5.2, storing §3, vary §4.1, freshness §4.2 (and RFC 5861), validation
§4.3, status (RFC 9211). A shared cache's reading throughout.
"""
