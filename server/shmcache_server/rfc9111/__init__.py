"""The caching rules of RFC 9111, one file per chapter: pure, time as an argument.

storing §3, fields §3.1, vary §4.1, freshness §4.2 (and RFC 5861), validation §4.3,
ranges §3.3 and §3.4 (and RFC 9110 §14), invalidating §4.4 (and RFC 9875), directives
§5.2, targeted (RFC 9213), status (RFC 9211); dates and etags are RFC 9110's. A shared
cache's reading throughout.

A response's way: targeted.control says what it allows, freshness how long,
storing.share whether and how it is stored, fields.stored with what, vary under which
secondary key. A request's: vary finds the variant, freshness.satisfies whether it may
answer, validation and ranges with how much of it; if it may not, validation asks the
origin and updates what a 304 confirms.
"""
