/* hot.c: the keys that are hit most, and those whose fills cost most.
 *
 * Space-saving (Metwally, Agrawal, El Abbadi 2005) over words of {32-bit print of
 * the hash, 32-bit weight}, changed by one CAS each: no lock, and nothing that a
 * killed process could leave half done. Hits are sampled by their caller.
 */
#include "inner.h"

#define PRINT(hash) ((uint64_t)(hash) & 0xffffffff00000000ull)

/* Add to a hash's weight in a table; it takes the place, and the weight, of the
 * lightest where it has none. A lost race loses the addition.
 */
void shmc_hot_add(shmc *t, uint32_t table, uint64_t hash, uint64_t weight)
{
    shmc_word *w = t->hot + table * SHMC_HOT_KEYS, *at = w;
    uint64_t least = UINT64_MAX, seen = 0;

    for (uint32_t i = 0; i < SHMC_HOT_KEYS; i++) {
        uint64_t one = atomic_load_explicit(&w[i], memory_order_relaxed);
        uint64_t rank = one && PRINT(one) == PRINT(hash) ? 0
            : (uint32_t)one + 1ull;
        if (rank < least) {
            least = rank;
            seen = one;
            at = &w[i];
        }
        if (!rank)
            break;
    }
    weight += (uint32_t)seen;
    if (weight > UINT32_MAX)
        weight = UINT32_MAX;
    atomic_compare_exchange_strong_explicit(
        at, &seen, PRINT(hash) | weight, memory_order_relaxed,
        memory_order_relaxed);
}
