/* table.c: the index and its records: find, copy, put, drop. */
#include "inner.h"
#include "hash.h"
#include "racing.h"

#define PREFETCH 6              /* cache lines of a record asked for at once */
#define LOOKS 8                 /* at one slot that keeps changing under us */

/* Whether a generation is still the one seen before a copy: it is whole. */
static inline int unchanged(shmc_word *generation, uint64_t seen)
{
    return shmc_load_after(generation) == seen;
}

/* The hash of a key under the segment's seed. */
uint64_t shmc_hash(const shmc *t, const void *key, size_t len)
{
    return shmc_siphash(t->header->seed, key, len);
}

/* Whether a stripe stands above a stamp. */
static inline int above(const shmc_word *stripe, uint64_t stamp)
{
    return shmc_load(stripe) > stamp;
}

/* What a record is worth now: SHMC_FRESH, _STALE, _DEAD, or SHMC_MISS where an
 * invalidation stands above its stamp. A soft one leaves what has no grace dead. The gap is loaded before its time and
 * the clear word after both: shmc_raise_gap writes them in the opposite order.
 */
int shmc_judge(shmc *t, const shmc_record *head, const uint32_t *tags,
               uint64_t hash, int64_t now)
{
    const shmc_header *h = t->header;
    uint64_t stamp = head->stamp;
    int soft = 0, expired = 0;

    if (above(&h->gap, stamp)) {
        int64_t at = atomic_load_explicit(&h->gap_at, memory_order_acquire);
        if (now - at >= SHMC_GAP_SOFT_NS)
            return SHMC_MISS;
        soft = 1;
    }
    if (above(&h->clear_hard, stamp)
        || (above(&h->floor_top, stamp)
            && above(shmc_key_floor(t, hash), stamp)))
        return SHMC_MISS;
    for (uint32_t i = 0; i < head->ntags; i++) {
        if (above(shmc_tag_stripe(t, tags[i], 0), stamp))
            return SHMC_MISS;
        expired |= above(shmc_tag_stripe(t, tags[i], 1), stamp);
    }
    if (now >= head->dead_at)
        return SHMC_DEAD;
    expired |= above(&h->clear_soft, stamp)
        || (above(&h->soft_top, stamp)
            && above(shmc_key_soft(t, hash), stamp));
    if (expired && head->dead_at <= head->fresh_until
        && head->fresh_until != SHMC_FOREVER)
        return SHMC_DEAD;
    return expired || soft || now >= head->fresh_until ? SHMC_STALE
        : SHMC_FRESH;
}

/* Take the chain that stands in place of a value. Whether it can be one. */
static int read_chain(const shmc *t, const uint8_t *p, shmc_found *out)
{
    if (out->head.value_len != sizeof out->chain)
        return 0;
    racing_copy(&out->chain, p, sizeof out->chain);
    out->length = out->chain.length;
    return shmc_chain_sane(t, &out->chain);
}

/* Look at the record that a slot word means. SHMC_OK: it is the key's, and *out
 * is whole; SHMC_MISS: it is another key's; SHMC_CHANGED: it was reused. `piece`
 * is SHMC_PIECE where the key is a piece's, else 0.
 *
 * The slot is loaded again after the generation. Without that:
 * 1. the reader loads the slot, and sleeps
 * 2. the extent is reused many times, until a generation with the same low bits
 * 3. the reader loads that generation; the offset now lies inside some value
 * 4. the generation stays, so the bytes of a value pass for a record
 * With it, the slot still meant this record when the generation was loaded.
 */
static int look(const shmc *t, uint32_t shard, shmc_word *slot, uint64_t word,
                const void *key, uint32_t len, uint32_t piece, shmc_found *out)
{
    uint32_t e = shmc_word_extent(word), offset = shmc_word_offset(word);
    shmc_word *generation = &t->shards[shard].generations[e];
    const shmc_record *head = &out->head;
    const uint8_t *p = shmc_at(t, shard, e, offset);

    for (uint32_t i = 0; i < PREFETCH; i++)
        __builtin_prefetch(p + 64 * i);         /* faults on no address */
    SHMC_STEP("look.slot");
    uint64_t seen = shmc_load(generation);

    if ((uint16_t)seen != word >> 48 || !shmc_word_same(shmc_load(slot), word))
        return SHMC_CHANGED;
    if (offset < SHMC_FIRST || offset + sizeof *head > t->g.extent_bytes)
        return SHMC_MISS;
    racing_copy(&out->head, p, sizeof *head);
    SHMC_STEP("look.head");
    uint32_t before = (uint32_t)sizeof *head + 4u * head->ntags;
    uint64_t end = (uint64_t)offset + before + head->key_len + head->value_len;
    int ours = head->key_len == len && head->ntags <= SHMC_TAGS_MAX
        && (piece ? head->kind == SHMC_PIECE : !(head->kind & SHMC_PIECE))
        && end <= t->g.extent_bytes && racing_equal(p + before, key, len);
    if (ours && head->ntags)
        racing_copy(out->tags, p + sizeof *head, 4u * head->ntags);
    out->length = head->value_len;
    if (ours && head->kind & SHMC_CHAINED)
        ours = read_chain(t, p + before + len, out);
    if (!unchanged(generation, seen))
        return SHMC_CHANGED;
    out->slot = slot;
    out->word = word;
    out->generation = generation;
    out->generation_seen = seen;
    out->value = p + before + len;
    return ours ? SHMC_OK : SHMC_MISS;
}

/* Look at one slot until it holds still. SHMC_OK, or SHMC_MISS. */
static int look_at(shmc *t, const shmc_place *at, shmc_word *slot,
                   const void *key, uint32_t len, uint32_t piece,
                   shmc_found *out)
{
    uint64_t word = shmc_load(slot);

    for (int i = 0; i < LOOKS; i++) {
        if (!word || (word & SHMC_PRINT_MASK) != at->print)
            return SHMC_MISS;
        int rc = look(t, at->shard, slot, word, key, len, piece, out);
        if (rc != SHMC_CHANGED)
            return rc;
        /* a record that moved is no miss: look where the slot points now */
        uint64_t again = shmc_load(slot);
        if (shmc_word_same(again, word))
            return SHMC_MISS;
        word = again;
        shmc_count(t, SHMC_C_RETRIES, 1);
    }
    return SHMC_MISS;
}

/* Find the key's record among its sixteen slots, whatever it is worth. */
int shmc_seek(shmc *t, const shmc_place *at, const void *key, uint32_t len,
              uint32_t piece, shmc_found *out)
{
    __builtin_prefetch(at->bucket[1]);
    for (int b = 0; b < 2; b++)
        for (uint32_t i = 0; i < SHMC_WAYS; i++) {
            shmc_word *slot = &at->bucket[b][i];
            uint64_t word = atomic_load_explicit(slot, memory_order_relaxed);
            if ((word & SHMC_PRINT_MASK) == at->print && word
                && look_at(t, at, slot, key, len, piece, out) == SHMC_OK)
                return SHMC_OK;
        }
    return SHMC_MISS;
}

/* Find a key's record and say what it is worth now. SHMC_OK or SHMC_MISS.
 * Takes no lock and waits for nobody. The value is copied by shmc_copy.
 */
int shmc_find(shmc *t, const void *key, uint32_t len, uint64_t hash,
              int64_t now, shmc_found *out)
{
    shmc_place at;

    shmc_place_of(t, hash, &at);
    if (shmc_seek(t, &at, key, len, 0, out) != SHMC_OK)
        return SHMC_MISS;
    out->hash = hash;
    int state = shmc_judge(t, &out->head, out->tags, hash, now);
    if (state < 0)
        return SHMC_MISS;
    out->state = (uint32_t)state;
    return SHMC_OK;
}

/* Copy the value of a found record, `length` bytes. SHMC_OK: it is whole;
 * SHMC_CHANGED: its extent was reused, what was copied is nothing; find again;
 * SHMC_MISS: a piece of it is missing.
 */
int shmc_copy(shmc *t, const shmc_found *f, void *to)
{
    if (f->head.kind & SHMC_CHAINED)
        return shmc_chain_copy(t, f, to);
    SHMC_STEP("copy.value");
    racing_copy(to, f->value, f->head.value_len);
    if (unchanged(f->generation, f->generation_seen))
        return SHMC_OK;
    shmc_count(t, SHMC_C_RETRIES, 1);
    return SHMC_CHANGED;
}

/* Note a hit in the slot's frequency, up to 3. A changed slot is let be. One
 * hit of SHMC_HOT_SAMPLE is noted for the hot keys.
 */
void shmc_touch(shmc *t, const shmc_found *f)
{
    uint64_t word = f->word;

    if (t->read_only)
        return;
    if (shmc_word_freq(word) < 3)
        atomic_compare_exchange_strong_explicit(
            f->slot, &word, word + SHMC_FREQ_ONE, memory_order_relaxed,
            memory_order_relaxed);
    SHMC_STEP("touch.freq");
    if (!(++t->hits % SHMC_HOT_SAMPLE)
        && !(f->head.kind & (SHMC_PIECE | SHMC_KIND_MASK)))
        shmc_hot_add(t, SHMC_HOT_HITS, f->hash, SHMC_HOT_SAMPLE);
}

/* Bytes of a record in the log. */
static uint64_t size_of(const shmc_store *s)
{
    uint64_t n = sizeof(shmc_record) + 4ull * s->ntags + s->key_len
        + (uint64_t)s->value_len;

    return (n + 7) & ~7ull;
}

/* Write a record's bytes where nothing points yet. */
static void append(uint8_t *to, const shmc_store *s, uint32_t bytes,
                   uint64_t stamp)
{
    shmc_record head = {
        .bytes = bytes, .value_len = s->value_len,
        .key_len = (uint16_t)s->key_len, .ntags = s->ntags, .kind = s->kind,
        .fill_us = s->fill_us, .birth = s->birth, .fresh_until = s->fresh_until,
        .dead_at = s->dead_at, .stamp = stamp, .nonce = s->nonce,
    };

    memcpy(to, &head, sizeof head);
    SHMC_STEP("store.head");
    to += sizeof head;
    if (s->ntags)
        memcpy(to, s->tags, 4u * s->ntags);
    to += 4u * s->ntags;
    memcpy(to, s->key, s->key_len);
    if (s->value_len)
        memcpy(to + s->key_len, s->value, s->value_len);
}

/* A slot for a key that has none: an empty one of the first bucket while it is
 * half empty, so that most reads touch no other, else of the emptier; where all
 * sixteen are taken, that of the least frequency, then of the oldest extent.
 */
static shmc_word *vacancy(shmc *t, const shmc_place *at)
{
    const shmc_shard *s = &t->shards[at->shard];
    shmc_word *empty[2] = {NULL, NULL}, *victim = NULL;
    uint32_t vacant[2] = {0, 0}, freq = 4;
    uint64_t age = 0;

    for (uint32_t i = 0; i < 2 * SHMC_WAYS; i++) {
        shmc_word *slot = &at->bucket[i / SHMC_WAYS][i % SHMC_WAYS];
        uint64_t w = shmc_load(slot), a;
        if (!w || !shmc_word_current(s, w)) {
            empty[i / SHMC_WAYS] = slot;
            vacant[i / SHMC_WAYS]++;
            continue;
        }
        a = s->extents[shmc_word_extent(w)].age;
        if (shmc_word_freq(w) < freq
            || (shmc_word_freq(w) == freq && a < age)) {
            victim = slot;
            freq = shmc_word_freq(w);
            age = a;
        }
    }
    if (empty[0] || empty[1])
        return empty[vacant[0] < SHMC_WAYS / 2 && vacant[1] > vacant[0]];
    shmc_count(t, SHMC_C_NO_SLOT, 1);
    return victim;
}

/* Let a slot mean another record, by one swap; its old record is forgotten. The
 * key's own slot keeps its frequency, which a reader may be raising.
 */
static void publish(shmc *t, uint32_t shard, shmc_word *slot, uint64_t word,
                    int own)
{
    uint64_t old = shmc_load(slot);

    while (!atomic_compare_exchange_weak_explicit(
               slot, &old, own ? word | (old & SHMC_FREQ_MASK) : word,
               memory_order_release, memory_order_relaxed))
        ;
    SHMC_STEP("publish.slot");
    if (old && shmc_word_current(&t->shards[shard], old))
        shmc_forget(t, shard, old);
}

/* Take a found record out of the index. */
static void remove_found(shmc *t, uint32_t shard, const shmc_found *f)
{
    atomic_exchange_explicit(f->slot, 0, memory_order_release);
    SHMC_STEP("remove.slot");
    shmc_forget(t, shard, f->word);
}

/* Whether a store under a claim has lost it. */
static int is_lost(shmc *t, const shmc_store *s)
{
    return s->claim != SHMC_NO_CLAIM
        && shmc_claim_word(t, s->claim) != s->claim_word;
}

/* Whether what stands under a key is not what a store asks for. What readers
 * take for absent, a dead record, and a chain that lacks a piece do not stand.
 */
static int is_other(shmc *t, const shmc_store *s, uint64_t hash,
                    const shmc_found *standing, int64_t now)
{
    if (!s->absent_only && !s->if_nonce)
        return 0;
    int state = standing
        ? shmc_judge(t, &standing->head, standing->tags, hash, now) : SHMC_MISS;
    int stands = (state == SHMC_FRESH || state == SHMC_STALE)
        && (!(standing->head.kind & SHMC_CHAINED)
            || shmc_chain_whole(t, standing));

    return (s->absent_only && stands)
        || (s->if_nonce && !(stands && standing->head.nonce == s->if_nonce));
}

/* Why a store is refused whatever its stamp, or SHMC_OK. Under the shard's lock.
 */
int shmc_unwelcome(shmc *t, const shmc_store *s, uint64_t hash,
                   const shmc_found *standing, int64_t now)
{
    if (is_lost(t, s))
        return SHMC_LOST;
    return is_other(t, s, hash, standing, now) ? SHMC_STANDS : SHMC_OK;
}

/* Why a store of a stamp is refused, or SHMC_OK. What readers take for absent is
 * not a later birth.
 */
int shmc_refusal(shmc *t, const shmc_store *s, uint64_t hash,
                 const shmc_found *standing, uint64_t stamp, int64_t now)
{
    int rc = shmc_unwelcome(t, s, hash, standing, now);

    if (rc != SHMC_OK)
        return rc;
    if (shmc_highest(t, hash, s->tags, s->ntags, 0) > stamp)
        return SHMC_RAISED;
    if (s->newer_only && standing && standing->head.birth > s->birth
        && shmc_judge(t, &standing->head, standing->tags, hash, now)
            != SHMC_MISS)
        return SHMC_OLDER;
    return SHMC_OK;
}

/* Whether a store may be made: SHMC_OK, or why not. With `raise` the stamp is
 * the number taken here, under the same hold of the lock as the store, so that
 * no reader finds the key without either value.
 *
 * What replaces one record may be that record with another life, and bears the
 * stamp that it was looked at under:
 * 1. a record is looked at  2. it is expired, or a gap is raised, and that
 * returns  3. it is stored again, under a number above 2: fresh
 * So nothing need be refused for 2: readers find it raised above the stamp. A
 * delete at 2 whose drop is yet to come takes away what is stored.
 */
static int admit(shmc *t, const shmc_store *s, uint64_t hash,
                 const shmc_found *standing, int64_t now, uint64_t *stamp)
{
    *stamp = s->stamp;
    if (s->raise) {
        int rc = shmc_unwelcome(t, s, hash, standing, now);
        if (rc != SHMC_OK)
            return rc;
        uint64_t number = shmc_number(t);
        SHMC_STEP("admit.number");
        shmc_raise_key(t, hash, number, 0);
        SHMC_STEP("admit.raised");
        if (s->if_nonce)
            return SHMC_OK;
        *stamp = number;
    }
    return shmc_refusal(t, s, hash, standing, *stamp, now);
}

/* Append a record, of a size that an extent can hold, and let its slot mean it,
 * in the order that costs a killed writer its own store only: bytes, fill mark,
 * slot. Under the shard's lock.
 */
void shmc_write(shmc *t, const shmc_place *at, uint32_t queue,
                const shmc_store *s, uint64_t stamp, int64_t now,
                const shmc_found *standing)
{
    shmc_shard *shard = &t->shards[at->shard];
    uint32_t e, offset, bytes = (uint32_t)size_of(s);

    shmc_room(t, at->shard, queue, bytes, now, &e, &offset);
    append(shmc_at(t, at->shard, e, offset), s, bytes, stamp);
    SHMC_STEP("store.bytes");
    __atomic_store_n(&shard->extents[e].fill, offset + bytes, __ATOMIC_RELEASE);
    SHMC_STEP("store.fill");
    /* the key's own slot, even if the room was made by emptying its extent */
    publish(t, at->shard, standing ? standing->slot : vacancy(t, at),
            shmc_slot_word(shmc_load(&shard->generations[e]), e, offset,
                           at->print),
            standing != NULL);
    SHMC_STEP("store.slot");
    shmc_keep(shard, e, bytes);
}

/* The queue that a record belongs in. A key that stands (`standing`, or NULL)
 * stays on probation if it is, since rewriting proves nothing; else it goes to
 * the rewrites. A key that was put out lately goes to main, others to probation.
 * Under the shard's lock.
 */
uint32_t shmc_queue_of(shmc *t, const shmc_place *at, uint64_t hash,
                       const shmc_found *standing)
{
    const shmc_shard *s = &t->shards[at->shard];

    if (!standing)
        return shmc_ghost_take(t, at->shard, hash) ? SHMC_Q_MAIN
            : SHMC_Q_PROBATION;
    return s->extents[shmc_word_extent(standing->word)].queue
        == SHMC_Q_PROBATION ? SHMC_Q_PROBATION : SHMC_Q_REWRITES;
}

/* Count a store that was refused. */
static void count_refusal(shmc *t, int rc)
{
    if (rc == SHMC_LOST)
        shmc_count(t, SHMC_C_REFUSED_LOST, 1);
    if (rc == SHMC_OLDER)
        shmc_count(t, SHMC_C_REFUSED_OLDER, 1);
    if (rc == SHMC_RAISED)
        shmc_count(t, SHMC_C_REFUSED_RAISED, 1);
}

/* Ask for the cache lines at the ends of the extents that a record may go to, to
 * have them once the index was looked at.
 */
static void expect(const shmc *t, uint32_t shard)
{
    static const uint32_t queues[] = {SHMC_Q_PROBATION, SHMC_Q_REWRITES};
    const shmc_shard *s = &t->shards[shard];

    for (int q = 0; q < 2; q++) {
        uint32_t e = SHMC_GET(s->open[queues[q]]);
        if (e >= SHMC_EXTENTS)
            continue;
        const uint8_t *p = shmc_at(t, shard, e, SHMC_GET(s->extents[e].fill));
        for (uint32_t i = 0; i < PREFETCH; i++)
            __builtin_prefetch(p + 64 * i, 1);
    }
}

/* Store a record that an extent can hold, if it may be. `queue` is SHMC_QUEUES
 * where it is yet to be chosen.
 */
static int put_whole(shmc *t, const shmc_store *s, const shmc_place *at,
                     uint64_t hash, uint32_t queue, int64_t now,
                     uint64_t *stamp)
{
    shmc_found found;
    int rc = shmc_lock(t, at->shard, s->wait);

    if (rc != SHMC_OK)
        return rc;
    SHMC_STEP("put.locked");
    expect(t, at->shard);
    int stands = shmc_seek(t, at, s->key, s->key_len, 0, &found) == SHMC_OK;
    rc = admit(t, s, hash, stands ? &found : NULL, now, stamp);
    if (rc == SHMC_OK) {
        if (queue == SHMC_QUEUES)
            queue = shmc_queue_of(t, at, hash, stands ? &found : NULL);
        SHMC_STEP("put.queue");
        shmc_write(t, at, queue, s, *stamp, now, stands ? &found : NULL);
        shmc_count(t, SHMC_C_STORES, 1);
        if (stands)
            shmc_count(t, SHMC_C_REPLACED, 1);
    } else {
        count_refusal(t, rc);
    }
    if (rc == SHMC_RAISED && s->raise && stands)
        remove_found(t, at->shard, &found);
    if (rc != SHMC_OK && s->kind & SHMC_CHAINED)
        shmc_chain_unlink(t, at->shard, s->value);
    SHMC_STEP("put.done");
    shmc_unlock(t, at->shard);
    return rc;
}

/* Store a value too large for one record: its pieces, then what names them. Each
 * piece may wait for the lock, so nothing is done for who would not wait.
 */
static int put_chain(shmc *t, const shmc_store *s, const shmc_place *at,
                     uint64_t hash, int64_t now, uint64_t *stamp)
{
    uint32_t queue;
    shmc_chain chain;
    shmc_store head = *s;
    int rc = s->wait ? shmc_chain_store(t, at, s, hash, now, &chain, &queue)
        : SHMC_BUSY;

    if (rc != SHMC_OK) {
        count_refusal(t, rc);
        return rc;
    }
    head.value = &chain;
    head.value_len = sizeof chain;
    head.kind |= SHMC_CHAINED;
    return put_whole(t, &head, at, hash, queue, now, stamp);
}

/* Store a record. SHMC_OK, with the stamp it bears in *stamp; else nothing was
 * stored: SHMC_TOO_LARGE (before anything is touched), _BUSY, _DISABLED, _LOST,
 * _RAISED (with `raise`: the old record is gone, the key was raised over it),
 * _OLDER, _STANDS. Waits for the shard's lock, if it was asked to, at most 2 ms a hold:
 * one for a record, one more for each piece of a chain.
 */
int shmc_put(shmc *t, const shmc_store *s, int64_t now, uint64_t *stamp)
{
    shmc_place at;

    if (s->value_len > shmc_value_max(t) || s->ntags > SHMC_TAGS_MAX
        || s->key_len < 1 || s->key_len > SHMC_KEY_MAX) {
        shmc_count(t, SHMC_C_TOO_LARGE, 1);
        return SHMC_TOO_LARGE;
    }
    uint64_t hash = shmc_hash(t, s->key, s->key_len);
    shmc_place_of(t, hash, &at);
    __builtin_prefetch(at.bucket[0]);   /* while the lock is taken */
    __builtin_prefetch(shmc_key_hard(t, hash));
    for (uint32_t i = 0; i < s->value_len && i < 64 * PREFETCH; i += 64)
        __builtin_prefetch((const uint8_t *)s->value + i);
    int rc = size_of(s) > shmc_whole_bytes(t)
        && s->value_len > sizeof(shmc_chain)
        ? put_chain(t, s, &at, hash, now, stamp)
        : put_whole(t, s, &at, hash, SHMC_QUEUES, now, stamp);
    SHMC_STEP("put.unlocked");
    if (rc == SHMC_OK && s->fill_us)
        shmc_hot_add(t, SHMC_HOT_FILLS, hash, s->fill_us / SHMC_HOT_US + 1);
    return rc;
}

/* Remove a key's record, unless it bears `nonce` (0: whatever it bears).
 * SHMC_OK (also where it was kept), SHMC_MISS. With `wait`, waits for the
 * shard's lock, at most 2 ms; where it is not to be had, SHMC_BUSY, and the
 * key's floor is raised to `floor`, so that readers miss the record all the
 * same. Without `wait`, SHMC_BUSY at once and nothing is raised. SHMC_DISABLED:
 * nothing stands in that shard; the floor is raised all the same.
 */
int shmc_drop(shmc *t, const void *key, uint32_t len, uint64_t floor,
              uint64_t nonce, int wait)
{
    uint64_t hash = shmc_hash(t, key, len);
    shmc_found found;
    shmc_place at;

    shmc_place_of(t, hash, &at);
    int rc = shmc_lock(t, at.shard, wait);
    if (rc != SHMC_OK) {
        if (floor && (wait || rc != SHMC_BUSY))
            shmc_raise_floor(t, hash, floor);
        return rc;
    }
    SHMC_STEP("drop.locked");
    rc = shmc_seek(t, &at, key, len, 0, &found);
    if (rc == SHMC_OK && !(nonce && found.head.nonce == nonce)) {
        remove_found(t, at.shard, &found);
        shmc_count(t, SHMC_C_INVALIDATED, 1);
    }
    SHMC_STEP("drop.done");
    shmc_unlock(t, at.shard);
    return rc;
}
