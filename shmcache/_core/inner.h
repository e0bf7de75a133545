/* inner.h: what the core's files share among themselves; no part of the API. */
#ifndef SHMC_INNER_H
#define SHMC_INNER_H

#include "table.h"

#define SHMC_FIRST 8u           /* offset of an extent's first record, not 0 */
#define SHMC_NO_EXTENT SHMC_EXTENTS

/* A failpoint: where a test build may kill, stop, delay or count the caller, or,
 * at SHMC_FAILS, have a call fail.
 */
#ifdef SHMC_STEPS
int shmc_step(const char *at);
#define SHMC_STEP(at) ((void)shmc_step(at))
#define SHMC_FAILS(at) shmc_step(at)
#else
#define SHMC_STEP(at) ((void)0)
#define SHMC_FAILS(at) 0
#endif

/* Fields of a shard's headers: written under its lock, read by anyone. */
#define SHMC_GET(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define SHMC_SET(field, to) __atomic_store_n(&(field), (to), __ATOMIC_RELAXED)

/* Order the copy of a record before the last look at its generation. */
static inline uint64_t shmc_load_after(shmc_word *w)
{
#ifdef __SANITIZE_THREAD__      /* it knows no fences */
    return atomic_fetch_add_explicit(w, 0, memory_order_acq_rel);
#else
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(w, memory_order_relaxed);
#endif
}

/* Store, and order the store before every write that follows. */
static inline void shmc_store_before(shmc_word *w, uint64_t to)
{
#ifdef __SANITIZE_THREAD__
    atomic_exchange_explicit(w, to, memory_order_acq_rel);
#else
    atomic_store_explicit(w, to, memory_order_release);
    atomic_thread_fence(memory_order_release);
#endif
}

static inline uint64_t shmc_load(const shmc_word *w)
{
    return atomic_load_explicit(w, memory_order_acquire);
}

/* Add to one of this process' counters: one writer, so no atomic addition. */
static inline void shmc_count(shmc *t, uint32_t counter, uint64_t n)
{
    shmc_word *c = &t->counters[counter];
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Single words, for the binding. */
static inline uint64_t shmc_word_load(shmc_word *w)
{
    return atomic_load(w);
}

static inline void shmc_word_store(shmc_word *w, uint64_t to)
{
    atomic_store(w, to);
}

static inline uint64_t shmc_word_add(shmc_word *w, uint64_t n)
{
    return atomic_fetch_add(w, n) + n;
}

static inline int shmc_word_cas(shmc_word *w, uint64_t old, uint64_t to)
{
    return atomic_compare_exchange_strong(w, &old, to);
}

static inline int64_t shmc_load_time(const _Atomic int64_t *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}

static inline void shmc_store_time(_Atomic int64_t *at, int64_t to)
{
    atomic_store_explicit(at, to, memory_order_relaxed);
}

/* The slot word's fields, as drawn in table.h. */
#define SHMC_PRINT_MASK 0x3ffffull
#define SHMC_FREQ_ONE (1ull << 46)
#define SHMC_FREQ_MASK (3ull << 46)

static inline uint64_t shmc_slot_word(uint64_t generation, uint32_t extent,
                                      uint32_t offset, uint32_t print)
{
    return generation << 48 | (uint64_t)extent << 40
        | (uint64_t)(offset / 8) << 18 | print;
}

static inline uint32_t shmc_word_extent(uint64_t w) { return w >> 40 & 63; }
static inline uint32_t shmc_word_freq(uint64_t w) { return w >> 46 & 3; }
static inline uint32_t shmc_word_offset(uint64_t w)
{
    return (uint32_t)(w >> 18 & 0x3fffff) * 8;
}

/* Whether two slot words mean one record: a reader may set the frequency. */
static inline int shmc_word_same(uint64_t a, uint64_t b)
{
    return ((a ^ b) & ~SHMC_FREQ_MASK) == 0;
}

/* Where a key may stand. */
typedef struct shmc_place {
    uint32_t shard;
    uint32_t print;
    shmc_word *bucket[2];
} shmc_place;

/* Fingerprint and two different buckets of a hash in a shard. The shard's ten
 * bits, the first bucket's 32 and the fingerprint's 18 do not overlap.
 */
static inline void shmc_place_in(const shmc *t, uint64_t hash, uint32_t shard,
                                 shmc_place *out)
{
    uint32_t buckets = t->g.buckets;
    uint64_t mixed = hash * 0x9e3779b97f4a7c15ull;
    uint32_t one = (uint64_t)(uint32_t)(hash >> 18) * buckets >> 32;
    uint32_t two = (mixed >> 32) * buckets >> 32;

    if (two == one)
        two = one + 1 == buckets ? 0 : one + 1;
    out->shard = shard;
    out->print = hash & SHMC_PRINT_MASK;
    shmc_word *index = t->index + (size_t)out->shard * buckets * SHMC_WAYS;
    out->bucket[0] = index + (size_t)one * SHMC_WAYS;
    out->bucket[1] = index + (size_t)two * SHMC_WAYS;
}

/* Where a key of that hash stands, if it does. */
static inline void shmc_place_of(const shmc *t, uint64_t hash, shmc_place *out)
{
    shmc_place_in(t, hash, (uint32_t)(hash >> 54) & (t->g.shards - 1), out);
}

static inline uint8_t *shmc_at(const shmc *t, uint32_t shard, uint32_t extent,
                               uint32_t offset)
{
    return t->extents
        + ((size_t)shard * SHMC_EXTENTS + extent) * t->g.extent_bytes + offset;
}

/* Whether a slot word's generation is the one its extent is in. */
static inline int shmc_word_current(const shmc_shard *s, uint64_t w)
{
    return (uint16_t)shmc_load(&s->generations[shmc_word_extent(w)]) == w >> 48;
}

/* The bytes of a value that one piece of a chain holds: an eighth of an extent,
 * so that what no record fits in at an extent's end stays small.
 */
static inline uint32_t shmc_piece_bytes(const shmc *t)
{
    return ((t->g.extent_bytes - SHMC_FIRST) / 8
            - (uint32_t)(sizeof(shmc_record) + sizeof(shmc_piece_key))) & ~7u;
}

/* The bytes above which a record becomes a chain. */
static inline uint32_t shmc_whole_bytes(const shmc *t)
{
    return (t->g.extent_bytes - SHMC_FIRST) / 4;
}

static inline uint32_t shmc_pieces(const shmc *t, uint32_t length)
{
    return (length + shmc_piece_bytes(t) - 1) / shmc_piece_bytes(t);
}

/* table.c */
int shmc_judge(shmc *t, const shmc_record *head, const uint32_t *tags,
               uint64_t hash, int64_t now);
int shmc_unwelcome(shmc *t, const shmc_store *s, uint64_t hash,
                   const shmc_found *standing, int64_t now);
int shmc_refusal(shmc *t, const shmc_store *s, uint64_t hash,
                 const shmc_found *standing, uint64_t stamp, int64_t now);
int shmc_seek(shmc *t, const shmc_place *at, const void *key, uint32_t len,
              uint32_t piece, shmc_found *out);
void shmc_write(shmc *t, const shmc_place *at, uint32_t queue,
                const shmc_store *s, uint64_t stamp, int64_t now,
                const shmc_found *standing);
uint32_t shmc_queue_of(shmc *t, const shmc_place *at, uint64_t hash,
                       const shmc_found *standing);

/* invalidation.c */
shmc_word *shmc_key_hard(shmc *t, uint64_t hash);
shmc_word *shmc_key_soft(shmc *t, uint64_t hash);
shmc_word *shmc_key_floor(shmc *t, uint64_t hash);

/* lock.c */
int shmc_take(shmc *t, pthread_mutex_t *lock, int64_t *try_until, int wait);
int shmc_lock(shmc *t, uint32_t shard, int wait);
void shmc_unlock(shmc *t, uint32_t shard);
void shmc_wipe(shmc *t, uint32_t shard);

/* outbox.c */
uint64_t shmc_ring_words(const shmc *t);
uint64_t shmc_ring_load(const shmc *t, uint64_t position);
uint64_t shmc_entry_at(const shmc *t, uint64_t position, uint64_t tail,
                       shmc_entry *out);

/* extent.c; all below are called under the shard's lock */
void shmc_room(shmc *t, uint32_t shard, uint32_t queue, uint32_t bytes,
              int64_t now, uint32_t *extent, uint32_t *offset);
void shmc_keep(shmc_shard *s, uint32_t extent, uint32_t bytes);
void shmc_forget(shmc *t, uint32_t shard, uint64_t word);
void shmc_raise_generation(shmc_shard *s, uint32_t extent);
void shmc_reset_extent(shmc_shard *s, uint32_t extent);
int shmc_fill_sane(const shmc *t, const shmc_extent *x);
int shmc_record_sane(const shmc_record *r, uint32_t offset, uint32_t fill);

/* chain.c; of these only the unlinking is called under the shard's lock */
int shmc_chain_sane(const shmc *t, const shmc_chain *chain);
int shmc_chain_whole(shmc *t, const shmc_found *f);
int shmc_chain_copy(shmc *t, const shmc_found *f, uint8_t *to);
int shmc_chain_store(shmc *t, const shmc_place *at, const shmc_store *s,
                     uint64_t hash, int64_t now, shmc_chain *chain,
                     uint32_t *queue);
void shmc_chain_unlink(shmc *t, uint32_t shard, const shmc_chain *chain);

/* ghost.c */
void shmc_ghost_add(shmc *t, uint32_t shard, uint64_t hash);
int shmc_ghost_take(shmc *t, uint32_t shard, uint64_t hash);

#endif
