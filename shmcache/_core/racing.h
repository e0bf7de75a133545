/* racing.h: bytes that may be reused while they are read.
 *
 * These two read an extent while a writer may be reusing it: a race, on
 * purpose. Nothing they saw is believed before the extent's generation was
 * found unchanged afterwards. No other function may touch a record without the
 * shard's lock.
 */
#ifndef SHMC_RACING_H
#define SHMC_RACING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__

__attribute__((no_sanitize("thread"), noinline, unused))
static void racing_copy(void *to, const void *from, size_t n)
{
    volatile uint8_t *d = to;   /* volatile: must not become a call of memcpy */
    const volatile uint8_t *s = from;
    for (size_t i = 0; i < n; i++)
        d[i] = s[i];
}

__attribute__((no_sanitize("thread"), noinline, unused))
static int racing_equal(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return 0;
    return 1;
}

#else

static inline void racing_copy(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
}

/* Keys are short: words at a time, without a call. */
static inline int racing_equal(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    uint64_t v, w;

    for (; n >= 8; n -= 8, x += 8, y += 8) {
        memcpy(&v, x, 8);
        memcpy(&w, y, 8);
        if (v != w)
            return 0;
    }
    for (; n; n--)
        if (*x++ != *y++)
            return 0;
    return 1;
}

#endif

#endif
