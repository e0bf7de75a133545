/* extent.c: the extents' life: S3-FIFO over pieces of a log.
 *
 * QUEUES. An extent is free, then open (appended to), then full, then emptied as
 * a whole. New records go to probation's open extent; those that were hit, or
 * came back from the ghost list, to main's; main's that are rewritten to the
 * rewrites', which is a part of main whose extents die young. Nothing links
 * extents: the oldest of a queue is found by a scan of the shard's headers, so a
 * writer killed between any two steps leaves nothing half linked.
 *
 * VICTIMS. First the extent that rewriting has left with the least live bytes,
 * if it is sparse: what stands there is kept, in its queue. Else the oldest of
 * probation while main has its share or less, else the oldest of main.
 *
 * EMPTYING. One free extent is kept for survivors. When it is the only one left
 * a victim is chosen, and each store walks its share of it: so the cost of an
 * emptying is spread over the stores that fill the extent now open. Each
 * record of the victim is let go or moved on, and its slot with it; once all
 * are gone the generation is raised and the extent is free.
 *
 * KILLED WRITERS. Slots alone say what stands. A walk killed anywhere is walked
 * again from where the cursor stood: a record whose slot means another place,
 * or nothing, is passed over. Counts of live bytes may drift; they are reset
 * with the extent.
 */
#include "inner.h"

#include <string.h>

#define MAIN_SHARE (SHMC_EXTENTS * 9 / 10)      /* extents that main may keep */
#define SPARSE_PERCENT 95       /* less than this live: emptied first */
#define SHARE_MOST 16           /* times its own bytes that a store walks */
#define ROUNDS 4                /* of victims whose survivors may be moved on */

static const shmc_record *record_at(const shmc *t, uint32_t shard, uint32_t e,
                                    uint32_t offset)
{
    return (const shmc_record *)shmc_at(t, shard, e, offset);
}

/* Book `bytes` of one record as live in an extent. */
void shmc_keep(shmc_shard *s, uint32_t extent, uint32_t bytes)
{
    shmc_extent *x = &s->extents[extent];

    SHMC_SET(x->live_bytes, x->live_bytes + bytes);
    SHMC_STEP("keep.bytes");
    SHMC_SET(x->live_records, x->live_records + 1);
}

/* Book a record of `bytes` as gone. Counts never fall below zero: a killed
 * writer may have left them short.
 */
static void book_gone(shmc_shard *s, uint32_t e, uint32_t bytes)
{
    shmc_extent *x = &s->extents[e];

    SHMC_SET(x->live_bytes, x->live_bytes > bytes ? x->live_bytes - bytes : 0);
    SHMC_STEP("book.bytes");
    SHMC_SET(x->live_records, x->live_records ? x->live_records - 1 : 0);
}

/* Whether an extent's fill mark is one that appends can have left. */
int shmc_fill_sane(const shmc *t, const shmc_extent *x)
{
    return x->fill <= t->g.extent_bytes && x->fill % 8 == 0;
}

/* Whether the record at `offset` lies, with all its parts, below the fill
 * mark.
 */
int shmc_record_sane(const shmc_record *r, uint32_t offset, uint32_t fill)
{
    if (fill - offset < sizeof *r)
        return 0;
    uint64_t parts = sizeof *r + 4ull * r->ntags + r->key_len
        + (uint64_t)r->value_len;

    return r->bytes % 8 == 0 && r->bytes <= fill - offset && parts <= r->bytes
        && r->ntags <= SHMC_TAGS_MAX && r->key_len >= 1
        && r->key_len <= SHMC_KEY_MAX;
}

/* Let the pieces of a record go with it, if its value lies in pieces. */
static void unlink_pieces(shmc *t, uint32_t shard, const shmc_record *r)
{
    shmc_chain chain;

    if ((r->kind & (SHMC_CHAINED | SHMC_PIECE)) != SHMC_CHAINED
        || r->value_len != sizeof chain)
        return;
    memcpy(&chain, (const uint8_t *)(r + 1) + 4 * r->ntags + r->key_len,
           sizeof chain);
    shmc_chain_unlink(t, shard, &chain);
}

/* Book the record of a slot word, which no slot bears any more, as gone. The mark
 * spares the walk a look for its slot; where a killed writer left none the walk
 * looks. A reader that still copies the record does not look at it.
 */
void shmc_forget(shmc *t, uint32_t shard, uint64_t word)
{
    uint32_t e = shmc_word_extent(word), offset = shmc_word_offset(word);
    const shmc_record *r = record_at(t, shard, e, offset);
    uint32_t fill = t->shards[shard].extents[e].fill;

    if (!shmc_fill_sane(t, &t->shards[shard].extents[e]) || offset >= fill
        || !shmc_record_sane(r, offset, fill))
        return;
    uint8_t *kind = shmc_at(t, shard, e, offset) + offsetof(shmc_record, kind);
    __atomic_store_n(kind, *kind | SHMC_GONE, __ATOMIC_RELAXED);
    SHMC_STEP("forget.mark");
    book_gone(&t->shards[shard], e, r->bytes);
    unlink_pieces(t, shard, r);
}

/* Raise an extent's generation. Its slots are cleared: no reader that loads the
 * slot after the generation can mean the bytes that will be written next.
 */
void shmc_raise_generation(shmc_shard *s, uint32_t e)
{
    shmc_store_before(&s->generations[e], shmc_load(&s->generations[e]) + 1);
}

/* Append to an extent no more. */
static void close_extent(shmc_shard *s, uint32_t e)
{
    for (int q = 0; q < SHMC_QUEUES; q++)
        if (s->open[q] == e)
            SHMC_SET(s->open[q], SHMC_NO_EXTENT);
    SHMC_STEP("close.open");
    if (s->rest == e)
        SHMC_SET(s->rest, SHMC_NO_EXTENT);
}

/* Make an extent's header that of a free one. */
void shmc_reset_extent(shmc_shard *s, uint32_t e)
{
    shmc_extent *x = &s->extents[e];

    close_extent(s, e);
    SHMC_STEP("reset.open");
    SHMC_SET(x->queue, SHMC_Q_FREE);
    SHMC_STEP("reset.queue");
    SHMC_SET(x->fill, 0);
    SHMC_STEP("reset.fill");
    SHMC_SET(x->live_bytes, 0);
    SHMC_STEP("reset.bytes");
    SHMC_SET(x->live_records, 0);
}

/* How many extents a queue has. */
static uint32_t extents_of(const shmc_shard *s, uint32_t queue)
{
    uint32_t n = 0;

    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        n += s->extents[e].queue == queue;
    return n;
}

/* The full extent of a queue that was opened first, or SHMC_NO_EXTENT. */
static uint32_t oldest(const shmc_shard *s, uint32_t queue)
{
    uint32_t found = SHMC_NO_EXTENT;

    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        if (s->extents[e].queue == queue && s->open[queue] != e
            && (found == SHMC_NO_EXTENT
                || s->extents[e].age < s->extents[found].age))
            found = e;
    return found;
}

static int is_sparse(const shmc_extent *x)
{
    return 100ull * x->live_bytes < (uint64_t)SPARSE_PERCENT * x->fill;
}

/* The full extent with the least live bytes among those that rewriting has
 * nearly emptied, or SHMC_NO_EXTENT.
 */
static uint32_t sparsest(const shmc_shard *s)
{
    uint32_t found = SHMC_NO_EXTENT;

    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        const shmc_extent *x = &s->extents[e];
        if (x->queue != SHMC_Q_FREE && x->queue < SHMC_QUEUES
            && s->open[x->queue] != e && is_sparse(x)
            && (found == SHMC_NO_EXTENT
                || x->live_bytes < s->extents[found].live_bytes))
            found = e;
    }
    return found;
}

/* The oldest full extent of main and the rewrites, or SHMC_NO_EXTENT. */
static uint32_t oldest_kept(const shmc_shard *s)
{
    uint32_t m = oldest(s, SHMC_Q_MAIN), w = oldest(s, SHMC_Q_REWRITES);

    if (m == SHMC_NO_EXTENT || w == SHMC_NO_EXTENT)
        return m == SHMC_NO_EXTENT ? w : m;
    return s->extents[w].age < s->extents[m].age ? w : m;
}

/* The extent to empty next. An open one where all are. */
static uint32_t next_victim(const shmc_shard *s)
{
    uint32_t held = extents_of(s, SHMC_Q_MAIN) + extents_of(s, SHMC_Q_REWRITES);
    uint32_t e = sparsest(s);

    if (e == SHMC_NO_EXTENT)
        e = held > MAIN_SHARE ? oldest_kept(s) : oldest(s, SHMC_Q_PROBATION);
    if (e == SHMC_NO_EXTENT)
        e = held > MAIN_SHARE ? oldest(s, SHMC_Q_PROBATION) : oldest_kept(s);
    for (int q = 0; q < SHMC_QUEUES && e == SHMC_NO_EXTENT; q++)
        e = s->open[q];
    return e;
}

/* Begin to empty an extent. */
static void choose(shmc_shard *s)
{
    uint32_t e = next_victim(s);

    if (e == SHMC_NO_EXTENT)
        return;
    close_extent(s, e);
    SHMC_STEP("choose.open");
    SHMC_SET(s->cursor, SHMC_FIRST);
    SHMC_STEP("choose.cursor");
    SHMC_SET(s->sparse, (uint32_t)is_sparse(&s->extents[e]));
    SHMC_STEP("choose.sparse");
    SHMC_SET(s->moved, 0);
    SHMC_STEP("choose");
    SHMC_SET(s->victim, e);
}

/* A free extent, while more than `left` are free, or SHMC_NO_EXTENT. */
static uint32_t spare(const shmc_shard *s, uint32_t left)
{
    return extents_of(s, SHMC_Q_FREE) > left ? oldest(s, SHMC_Q_FREE)
        : SHMC_NO_EXTENT;
}

/* Open a free extent for a queue. */
static void open_extent(shmc_shard *s, uint32_t e, uint32_t queue)
{
    shmc_extent *x = &s->extents[e];

    SHMC_SET(s->opened, s->opened + 1);
    SHMC_STEP("open.opened");
    SHMC_SET(x->age, s->opened);
    SHMC_STEP("open.age");
    SHMC_SET(x->fill, SHMC_FIRST);
    SHMC_STEP("open.fill");
    __atomic_store_n(&x->queue, queue, __ATOMIC_RELEASE);
    SHMC_STEP("open.queue");
    __atomic_store_n(&s->open[queue], e, __ATOMIC_RELEASE);
    SHMC_SET(s->free, s->free - (s->free > 0));
}

/* Where an extent that is appended to has room for `bytes`: its fill mark, loaded
 * once, so that none but a sane one is used. 0 if it has no room.
 */
static uint32_t room_at(const shmc *t, const shmc_shard *s, uint32_t e,
                        uint32_t bytes)
{
    if (e >= SHMC_NO_EXTENT)
        return 0;
    uint32_t fill = SHMC_GET(s->extents[e].fill);
    return fill >= SHMC_FIRST && fill % 8 == 0 && fill <= t->g.extent_bytes
        && t->g.extent_bytes - fill >= bytes ? fill : 0;
}

/* Append a copy of a record to a queue, for which the reserve may be opened. The
 * slot word of its new place, without a frequency, or 0 if there is no room.
 */
static uint64_t copy_to(shmc *t, uint32_t shard, uint32_t queue,
                        const shmc_record *r, uint64_t print)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t e = SHMC_GET(s->open[queue]), bytes = SHMC_GET(r->bytes);
    uint32_t offset = room_at(t, s, e, bytes);

    if (!offset) {
        e = spare(s, 0);
        if (e == SHMC_NO_EXTENT)
            return 0;
        open_extent(s, e, queue);
        offset = room_at(t, s, e, bytes);
        if (!offset)
            return 0;
    }
    memcpy(shmc_at(t, shard, e, offset), r, bytes);
    SHMC_STEP("move.bytes");
    __atomic_store_n(&s->extents[e].fill, offset + bytes, __ATOMIC_RELEASE);
    SHMC_STEP("move.fill");
    return shmc_slot_word(shmc_load(&s->generations[e]), e, offset,
                          (uint32_t)print);
}

/* Move a record to a queue with a new frequency: one swap of its slot, repeated
 * while readers raise the frequency. 0 if there is no room for it.
 */
static int move(shmc *t, uint32_t shard, uint32_t queue, const shmc_record *r,
                shmc_word *slot, uint64_t freq)
{
    uint64_t old = shmc_load(slot);
    uint64_t word = copy_to(t, shard, queue, r, old & SHMC_PRINT_MASK);

    if (!word)
        return 0;
    while (!atomic_compare_exchange_weak_explicit(
               slot, &old, word | freq * SHMC_FREQ_ONE, memory_order_release,
               memory_order_relaxed))
        ;
    SHMC_STEP("move.slot");
    book_gone(&t->shards[shard], shmc_word_extent(old), r->bytes);
    SHMC_STEP("move.gone");
    shmc_keep(&t->shards[shard], shmc_word_extent(word), r->bytes);
    SHMC_STEP("move.kept");
    return 1;
}

/* Let a record go: clear its slot; its pieces go with it. */
static void let_go(shmc *t, uint32_t shard, uint32_t e, const shmc_record *r,
                   shmc_word *slot, uint32_t cause)
{
    atomic_exchange_explicit(slot, 0, memory_order_release);
    SHMC_STEP("empty.slot");
    book_gone(&t->shards[shard], e, r->bytes);
    SHMC_STEP("empty.booked");
    unlink_pieces(t, shard, r);
    shmc_count(t, cause, 1);
}

/* The queue that a standing record is moved on to, with its new frequency, or
 * SHMC_Q_FREE if it is evicted: what was hit on probation goes to main; main's
 * goes round once more for each hit it has left; of a sparse extent all is kept.
 */
static uint32_t onward(const shmc_shard *s, uint32_t queue, uint32_t *freq)
{
    if (queue == SHMC_Q_PROBATION) {
        uint32_t to = *freq ? SHMC_Q_MAIN : s->sparse ? queue : SHMC_Q_FREE;
        *freq = 0;
        return to;
    }
    if (s->sparse)
        return queue;
    return *freq && (*freq)-- ? SHMC_Q_MAIN : SHMC_Q_FREE;
}

/* What becomes of a standing record of an extent that is emptied: gone if it is
 * invalidated or dead, moved on, or evicted, out of probation with a mark in the
 * ghost list.
 */
static void settle(shmc *t, uint32_t shard, uint32_t e, const shmc_record *r,
                   shmc_word *slot, uint64_t hash, int64_t now)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t queue = SHMC_GET(s->extents[e].queue) % SHMC_QUEUES;
    uint32_t freq = shmc_word_freq(shmc_load(slot));
    int state = shmc_judge(t, r, (const uint32_t *)(r + 1), hash, now);

    if (state == SHMC_MISS || state == SHMC_DEAD) {
        let_go(t, shard, e, r, slot, state == SHMC_MISS ? SHMC_C_INVALIDATED
               : SHMC_C_EXPIRED);
        return;
    }
    uint32_t to = onward(s, queue, &freq);
    if (to != SHMC_Q_FREE
        && s->moved + r->bytes <= t->g.extent_bytes
        && move(t, shard, to, r, slot, freq)) {
        SHMC_SET(s->moved, s->moved + r->bytes);
        SHMC_STEP("move.moved");
        return;
    }
    if (queue == SHMC_Q_PROBATION) {
        if (!(r->kind & SHMC_PIECE))
            shmc_ghost_add(t, shard, hash);
        SHMC_STEP("empty.ghost");
        SHMC_SET(s->evicted_bytes, s->evicted_bytes + r->bytes);
        SHMC_STEP("empty.clock");
    }
    let_go(t, shard, e, r, slot, SHMC_C_EVICTED);
}

/* The slot that means the record at a place, or NULL. */
static shmc_word *slot_of(shmc *t, uint32_t shard, uint32_t e, uint32_t offset,
                          uint64_t hash)
{
    shmc_place at;

    shmc_place_in(t, hash, shard, &at);
    uint64_t word = shmc_slot_word(shmc_load(&t->shards[shard].generations[e]),
                                   e, offset, at.print);
    for (int i = 0; i < 2 * (int)SHMC_WAYS; i++) {
        shmc_word *slot = &at.bucket[i / SHMC_WAYS][i % SHMC_WAYS];
        if (shmc_word_same(shmc_load(slot), word))
            return slot;
    }
    return NULL;
}

/* Free the victim, whose slots are cleared, for new bytes. */
static void finish(shmc_shard *s, uint32_t e)
{
    uint32_t fill = s->extents[e].fill;
    uint32_t moved = s->moved < fill ? s->moved : fill;     /* see make_free */

    SHMC_SET(s->survival, (s->survival + (uint32_t)(256ull * moved
                                                    / (fill + 1ull))) / 2);
    SHMC_STEP("empty.survival");
    SHMC_SET(s->victim, SHMC_NO_EXTENT);
    SHMC_STEP("empty.done");
    shmc_raise_generation(s, e);
    SHMC_STEP("empty.generation");
    shmc_reset_extent(s, e);
}

/* See that no slot means the record at `offset` any more. */
static void clear(shmc *t, uint32_t shard, uint32_t e, const shmc_record *r,
                  uint32_t offset, int64_t now)
{
    const uint8_t *key = (const uint8_t *)(r + 1) + 4 * r->ntags;
    uint64_t hash = shmc_hash(t, key, r->key_len);
    shmc_word *slot = slot_of(t, shard, e, offset, hash);

    if (slot)
        settle(t, shard, e, r, slot, hash, now);
}

/* Walk `bytes` of the victim, to its end at most. A header or a record that no
 * append can have left wipes the shard.
 */
static void walk(shmc *t, uint32_t shard, uint64_t bytes, int64_t now)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t e = s->victim, offset = s->cursor, fill = s->extents[e].fill;
    uint64_t end = offset + bytes;

    if (!shmc_fill_sane(t, &s->extents[e]) || offset % 8
        || offset < SHMC_FIRST) {
        shmc_wipe(t, shard);
        return;
    }
    while (offset < fill && offset < end) {
        const shmc_record *r = record_at(t, shard, e, offset);
        if (!shmc_record_sane(r, offset, fill)) {
            shmc_wipe(t, shard);
            return;
        }
        __builtin_prefetch((const uint8_t *)r + r->bytes);
        if (!(r->kind & SHMC_GONE))
            clear(t, shard, e, r, offset, now);
        offset += r->bytes;
        SHMC_SET(s->cursor, offset);
        SHMC_STEP("empty.cursor");
    }
    if (offset >= fill)
        finish(s, e);
}

/* The free extents that are worked for ahead of need: the reserve, and one for
 * each queue that may want to open its next.
 */
static uint32_t wanted(const shmc_shard *s)
{
    return 2 + (s->open[SHMC_Q_MAIN] < SHMC_NO_EXTENT)
        + (s->open[SHMC_Q_REWRITES] < SHMC_NO_EXTENT);
}

/* Choose a victim if there is none and too few extents are free. */
static void keep_ahead(shmc_shard *s)
{
    SHMC_SET(s->free, extents_of(s, SHMC_Q_FREE));
    SHMC_STEP("choose.free");
    if (s->victim >= SHMC_NO_EXTENT && s->free < wanted(s))
        choose(s);
}

static uint32_t room_of(const shmc *t, const shmc_shard *s, uint32_t queue)
{
    uint32_t e = s->open[queue];

    return e < SHMC_NO_EXTENT && s->extents[e].fill < t->g.extent_bytes
        ? t->g.extent_bytes - s->extents[e].fill : 0;
}

/* The bytes that are to be walked until enough extents are free: what is left of
 * the victim, and as many more as survivors will take, as far as the last
 * victims tell.
 */
static uint64_t ahead(const shmc *t, const shmc_shard *s)
{
    uint32_t fill = s->extents[s->victim].fill, free = s->free + 1;
    uint64_t left = fill > s->cursor ? fill - s->cursor : 1;
    uint64_t freed = s->survival < 240 ? 256 - s->survival : 16;

    if (left * s->survival / 256 > room_of(t, s, SHMC_Q_MAIN))
        free--;
    return left + (free < wanted(s) ? (wanted(s) - free) * 256ull
                   * t->g.extent_bytes / freed : 0);
}

/* Walk a store's share of the victim: one and a half times what is to be walked
 * for each byte that its queue's open extent has room for; not too much of it at
 * once while there is an extent to open. Nothing while enough are free.
 */
static void pace(shmc *t, uint32_t shard, uint32_t queue, uint32_t bytes,
                 int64_t now)
{
    shmc_shard *s = &t->shards[shard];

    if (s->victim >= SHMC_NO_EXTENT)
        return;
    uint64_t room = room_of(t, s, queue), share = ahead(t, s);
    if (room > bytes)
        share = share * bytes * 3 / 2 / room + 1;
    if (s->free > 1 && share > (uint64_t)SHARE_MOST * bytes)
        share = (uint64_t)SHARE_MOST * bytes;
    walk(t, shard, share, now);
    if (s->victim >= SHMC_NO_EXTENT)
        keep_ahead(s);
}

/* A free extent beside the reserve, for which victims are emptied to their end.
 * Survivors may leave no room to be gained: after ROUNDS victims they go.
 */
static uint32_t make_free(shmc *t, uint32_t shard, int64_t now)
{
    shmc_shard *s = &t->shards[shard];

    for (uint32_t i = 0; i < 2 * ROUNDS; i++) {
        uint32_t e = spare(s, 1);
        if (e != SHMC_NO_EXTENT)
            return e;
        if (s->victim >= SHMC_NO_EXTENT)
            choose(s);
        if (s->victim >= SHMC_NO_EXTENT)
            break;
        if (i >= ROUNDS)
            SHMC_SET(s->moved, t->g.extent_bytes);
        walk(t, shard, UINT32_MAX, now);
    }
    shmc_wipe(t, shard);        /* no append can have left it so */
    return spare(s, 1);
}

/* Open the next extent of a queue, whose open one has no room for `bytes`.
 * Probation's is kept in mind for what still fits its end.
 */
static void next_open(shmc *t, uint32_t shard, uint32_t queue, uint32_t bytes,
                      int64_t now)
{
    shmc_shard *s = &t->shards[shard];
    uint32_t e = make_free(t, shard, now);

    if (!room_at(t, s, SHMC_GET(s->open[queue]), bytes)     /* none was opened */
        && e < SHMC_NO_EXTENT) {
        if (queue == SHMC_Q_PROBATION)
            SHMC_SET(s->rest, s->open[queue]);
        SHMC_STEP("open.rest");
        open_extent(s, e, queue);
    }
    keep_ahead(s);
}

/* Find room for `bytes`, which an extent can hold, in a queue's open extent,
 * emptying others if need be. Sets *extent and *offset; the fill mark is the
 * caller's to publish once the bytes stand.
 */
void shmc_room(shmc *t, uint32_t shard, uint32_t queue, uint32_t bytes,
               int64_t now, uint32_t *extent, uint32_t *offset)
{
    shmc_shard *s = &t->shards[shard];

    pace(t, shard, queue, bytes, now);
    uint32_t e = queue == SHMC_Q_PROBATION ? SHMC_GET(s->rest) : SHMC_NO_EXTENT;
    uint32_t at = room_at(t, s, e, bytes);
    if (!at)
        at = room_at(t, s, e = SHMC_GET(s->open[queue]), bytes);
    if (!at) {
        next_open(t, shard, queue, bytes, now);
        at = room_at(t, s, e = SHMC_GET(s->open[queue]), bytes);
    }
    if (!at) {                  /* somebody writes to the headers but writers */
        shmc_wipe(t, shard);
        open_extent(s, e = 0, queue);
        at = SHMC_FIRST;
    }
    *extent = e;
    *offset = at;
}
