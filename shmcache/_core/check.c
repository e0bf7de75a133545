/* check.c: whether what stands in a shard, or the outbox, agrees with itself.
 *
 * WHAT IS BELIEVED. Nothing: every field is read once into a local and clamped
 * before it is used, so that a check of any bytes ends and stays inside.
 *
 * WHAT IS A FAULT. That which no order of writers, alive, stopped or killed
 * between any two of their steps, can have left. A killed writer leaves
 * records that no slot means, counts of live bytes that drifted, pieces that no
 * chain names: these are counted, and are no faults.
 *
 * WRITERS AT WORK. The bytes below an extent's fill mark never change within a
 * generation but for the mark SHMC_GONE, which is not looked at; a place is some
 * slot's once in a generation, and the fill mark stands before the slot. So what
 * is read between two equal looks at a slot and a generation was so at one
 * moment. The headers are believed once two reads of
 * all of them are alike. Whatever changed is looked at again, LOOKS times at
 * most, and then counted as unsettled and passed over.
 */
#include "inner.h"
#include "racing.h"

#include <string.h>

#define LOOKS 64
#define OWNER_DIED 0x40000000u  /* of a robust futex, as the kernel marks it */

/* An extent as its log was walked. */
typedef struct walked {
    uint64_t generation;
    uint32_t end;               /* records are known to begin below it */
    uint32_t records, bytes;    /* that slots mean, counted by the index */
} walked;

/* A shard's headers at one moment. */
typedef struct headers {
    uint64_t opened;
    uint32_t disabled, rest, victim, cursor, open[SHMC_QUEUES];
    shmc_extent extents[SHMC_EXTENTS];
    uint64_t generations[SHMC_EXTENTS];
} headers;

/* A check under way. */
typedef struct check {
    shmc *t;
    shmc_shard *s;
    uint32_t shard;
    uint64_t *starts;           /* a bit for each 8 bytes: a record begins */
    shmc_report *out;
    uint64_t named;             /* pieces that chains name and that stand */
    headers before;
    walked extents[SHMC_EXTENTS];
} check;

/* Order all that was read before what is read next. */
static inline void then(void)
{
#ifndef __SANITIZE_THREAD__     /* it knows no fences */
    atomic_thread_fence(memory_order_acquire);
#endif
}

/* Load a word again, after all that was read before. Unlike shmc_load_after it
 * never writes: the mapping may be for reading only.
 */
static inline uint64_t load_again(const shmc_word *w)
{
    then();
    return shmc_load(w);
}

static void fault(check *c, uint32_t kind, uint32_t e, uint32_t offset,
                  uint32_t slot)
{
    shmc_report *out = c->out;

    out->found[kind]++;
    if (out->told < SHMC_FAULTS)
        out->faults[out->told++] = (shmc_fault){kind, e, offset, slot};
}

/* ---- headers ------------------------------------------------------------- */

static void read_headers(const shmc_shard *s, headers *h)
{
    memset(h, 0, sizeof *h);    /* padding too: they are compared as bytes */
    h->opened = SHMC_GET(s->opened);
    h->disabled = SHMC_GET(s->disabled);
    h->rest = SHMC_GET(s->rest);
    h->victim = SHMC_GET(s->victim);
    h->cursor = SHMC_GET(s->cursor);
    for (int q = 0; q < SHMC_QUEUES; q++)
        h->open[q] = SHMC_GET(s->open[q]);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        const shmc_extent *x = &s->extents[e];
        h->extents[e].queue = SHMC_GET(x->queue);
        h->extents[e].fill = SHMC_GET(x->fill);
        h->extents[e].age = SHMC_GET(x->age);
        h->extents[e].live_bytes = SHMC_GET(x->live_bytes);
        h->extents[e].live_records = SHMC_GET(x->live_records);
        h->generations[e] = shmc_load(&s->generations[e]);
    }
    then();
}

/* Read the headers as they stood at one moment. 0 if writers never let them. */
static int settled_headers(const shmc_shard *s, headers *h)
{
    headers again;

    for (int i = 0; i < LOOKS; i++) {
        read_headers(s, h);
        read_headers(s, &again);
        if (!memcmp(h, &again, sizeof again))
            return 1;
    }
    return 0;
}

/* Whether an extent may be appended to as one of `queue`, or is none. */
static int appendable(const headers *h, uint32_t e, uint32_t queue)
{
    return e == SHMC_NO_EXTENT
        || (e < SHMC_NO_EXTENT && e != h->victim && queue != SHMC_Q_FREE
            && h->extents[e].queue == queue
            && h->extents[e].fill >= SHMC_FIRST);
}

static void check_open(check *c)
{
    const headers *h = &c->before;

    for (uint32_t q = 0; q < SHMC_QUEUES; q++)
        if (!appendable(h, h->open[q], q))
            fault(c, SHMC_F_OPEN, h->open[q], SHMC_NOWHERE, SHMC_NOWHERE);
    if (!appendable(h, h->rest, SHMC_Q_PROBATION))
        fault(c, SHMC_F_OPEN, h->rest, SHMC_NOWHERE, SHMC_NOWHERE);
}

/* Whether the headers agree with each other, as lock.c asks of them too; and a
 * victim is in a queue, its cursor below its fill mark.
 */
static void check_headers(check *c)
{
    const headers *h = &c->before;
    uint32_t v = h->victim;

    if (h->disabled > 2)
        fault(c, SHMC_F_STATE, SHMC_NOWHERE, SHMC_NOWHERE, SHMC_NOWHERE);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        const shmc_extent *x = &h->extents[e];
        if (x->queue >= SHMC_QUEUES)
            fault(c, SHMC_F_QUEUE, e, SHMC_NOWHERE, SHMC_NOWHERE);
        if (!shmc_fill_sane(c->t, x))
            fault(c, SHMC_F_FILL, e, x->fill, SHMC_NOWHERE);
        if (x->age > h->opened)
            fault(c, SHMC_F_AGE, e, SHMC_NOWHERE, SHMC_NOWHERE);
    }
    check_open(c);
    if (v > SHMC_NO_EXTENT
        || (v < SHMC_NO_EXTENT && (h->extents[v].queue == SHMC_Q_FREE
                                   || h->cursor < SHMC_FIRST
                                   || h->cursor > h->extents[v].fill)))
        fault(c, SHMC_F_VICTIM, v, h->cursor, SHMC_NOWHERE);
}

/* ---- the log ------------------------------------------------------------- */

static size_t start_bit(const check *c, uint32_t e, uint32_t offset)
{
    return ((size_t)e * c->t->g.extent_bytes + offset) / 8;
}

static int begins(const check *c, uint32_t e, uint32_t offset)
{
    size_t bit = start_bit(c, e, offset);

    return c->starts[bit / 64] >> bit % 64 & 1;
}

/* Walk the records from `offset` to `fill`, marking where each begins. Where it
 * ended: at `fill`, or at what is no record.
 */
static uint32_t walk_to(check *c, uint32_t e, uint32_t offset, uint32_t fill)
{
    shmc_record head;

    while (offset < fill) {
        racing_copy(&head, shmc_at(c->t, c->shard, e, offset),
                    fill - offset < sizeof head ? fill - offset : sizeof head);
        if (!shmc_record_sane(&head, offset, fill))
            break;
        size_t bit = start_bit(c, e, offset);
        c->starts[bit / 64] |= 1ull << bit % 64;
        offset += head.bytes;
    }
    return offset;
}

/* Walk an extent's log from its first record to its fill mark. An extent that
 * is opened anew meanwhile has another age, and one being freed, whose
 * generation is raised already, a smaller fill mark.
 */
static void walk_extent(check *c, uint32_t e)
{
    shmc_extent *x = &c->s->extents[e];
    walked *w = &c->extents[e];

    for (int i = 0; i < LOOKS; i++) {
        w->generation = shmc_load(&c->s->generations[e]);
        w->end = 0;
        uint64_t age = __atomic_load_n(&x->age, __ATOMIC_ACQUIRE);
        uint32_t queue = __atomic_load_n(&x->queue, __ATOMIC_ACQUIRE);
        shmc_extent seen = {0};
        seen.fill = __atomic_load_n(&x->fill, __ATOMIC_ACQUIRE);
        if (queue == SHMC_Q_FREE || !shmc_fill_sane(c->t, &seen))
            return;
        uint32_t end = walk_to(c, e, SHMC_FIRST, seen.fill);
        if (load_again(&c->s->generations[e]) != w->generation
            || SHMC_GET(x->age) != age || SHMC_GET(x->fill) < seen.fill)
            continue;
        w->end = end;
        c->out->filled_bytes += seen.fill;
        if (end < seen.fill)
            fault(c, SHMC_F_LOG, e, end, SHMC_NOWHERE);
        return;
    }
    c->out->unsettled++;
}

/* ---- the index ----------------------------------------------------------- */

static shmc_word *slot_at(const shmc *t, uint32_t shard, uint32_t slot)
{
    return t->index + (size_t)shard * t->g.buckets * SHMC_WAYS + slot;
}

/* Read the record that a slot means. Its parts lie inside, but nothing is known
 * yet of what they say.
 */
static int read_record(const shmc *t, uint32_t shard, uint32_t e,
                       uint32_t offset, uint32_t fill, shmc_listed *out)
{
    const uint8_t *p = shmc_at(t, shard, e, offset);

    racing_copy(&out->head, p, sizeof out->head);
    if (!shmc_record_sane(&out->head, offset, fill))
        return SHMC_F_RECORD;
    p += sizeof out->head;
    racing_copy(out->tags, p, 4u * out->head.ntags);
    p += 4u * out->head.ntags;
    racing_copy(out->key, p, out->head.key_len);
    memset(&out->chain, 0, sizeof out->chain);
    out->length = out->head.value_len;
    if (out->head.kind & SHMC_CHAINED
        && out->head.value_len == sizeof out->chain) {
        racing_copy(&out->chain, p + out->head.key_len, sizeof out->chain);
        out->length = out->chain.length;
    }
    return SHMC_OK;
}

/* Look at a slot once. SHMC_OK; SHMC_MISS: it is empty; SHMC_CHANGED; else the
 * fault, which is above 0.
 */
static int see_once(const shmc *t, uint32_t shard, const shmc_word *slot,
                    shmc_listed *out)
{
    const shmc_shard *s = &t->shards[shard];
    uint64_t w = shmc_load(slot);
    uint32_t e = shmc_word_extent(w), offset = shmc_word_offset(w);
    uint64_t generation = shmc_load(&s->generations[e]);
    uint32_t queue = __atomic_load_n(&s->extents[e].queue, __ATOMIC_ACQUIRE);
    uint32_t fill = __atomic_load_n(&s->extents[e].fill, __ATOMIC_ACQUIRE);
    int rc;

    out->word = w;
    if (!w)
        return SHMC_MISS;
    if (fill > t->g.extent_bytes)
        fill = t->g.extent_bytes;
    if ((uint16_t)generation != w >> 48)
        rc = SHMC_F_PAST;
    else if (queue == SHMC_Q_FREE || offset < SHMC_FIRST || offset >= fill
             || fill - offset < sizeof out->head)
        rc = SHMC_F_OUTSIDE;
    else
        rc = read_record(t, shard, e, offset, fill, out);
    if (load_again(&s->generations[e]) != generation
        || !shmc_word_same(shmc_load(slot), w))
        return SHMC_CHANGED;
    if (rc == SHMC_OK)
        out->hash = shmc_hash(t, out->key, out->head.key_len);
    return rc;
}

/* Look at a slot until it holds still. As see_once. */
static int see(const shmc *t, uint32_t shard, const shmc_word *slot,
               shmc_listed *out)
{
    int rc = SHMC_CHANGED;

    for (int i = 0; i < LOOKS && rc == SHMC_CHANGED; i++)
        rc = see_once(t, shard, slot, out);
    return rc;
}

/* Where the key of a seen record may stand: a piece, in its chain's shard. */
static void place_of(const shmc *t, uint32_t shard, const shmc_listed *r,
                     shmc_place *at)
{
    if (r->head.kind & SHMC_PIECE)
        shmc_place_in(t, r->hash, shard, at);
    else
        shmc_place_of(t, r->hash, at);
}

/* Whether a piece is one that a store can have made. */
static int piece_sane(const check *c, const shmc_listed *r)
{
    shmc_piece_key key;

    if (r->head.key_len != sizeof key)
        return 0;
    memcpy(&key, r->key, sizeof key);
    return key.id && key.id <= SHMC_GET(c->s->chains) && !key.spare
        && r->head.kind == SHMC_PIECE && !r->head.ntags
        && r->head.value_len && r->head.value_len <= shmc_piece_bytes(c->t);
}

/* Whether a chain is one that a store can have made. */
static int chain_sane(const check *c, const shmc_listed *r)
{
    return r->head.value_len == sizeof r->chain
        && shmc_chain_sane(c->t, &r->chain)
        && r->chain.id && r->chain.id <= SHMC_GET(c->s->chains);
}

/* Count a chain, and those of its pieces that stand. Pieces go after the slot
 * of their chain: where that changed, a missing one says nothing.
 */
static void count_chain(check *c, const shmc_listed *r, const shmc_word *slot)
{
    uint32_t n = shmc_pieces(c->t, r->chain.length), missing = 0;

    for (uint32_t i = 0; i < n; i++) {
        shmc_piece_key key = {.id = r->chain.id, .number = i};
        shmc_found piece;
        shmc_place at;
        shmc_place_in(c->t, shmc_hash(c->t, &key, sizeof key), c->shard, &at);
        missing += shmc_seek(c->t, &at, &key, sizeof key, SHMC_PIECE, &piece)
            != SHMC_OK;
    }
    if (missing && !shmc_word_same(load_again(slot), r->word))
        return;
    c->named += n - missing;
    c->out->chains++;
    c->out->broken_chains += missing > 0;
    c->out->missing_pieces += missing;
}

/* Look for a second slot of a record, or of its key, among the key's sixteen.
 * Both stood at one moment if each is found again after the other. Told once,
 * of the latter slot.
 */
static void check_twice(check *c, const shmc_listed *r, const shmc_place *at,
                        uint32_t own)
{
    const shmc_word *slot = slot_at(c->t, c->shard, own);
    shmc_listed other;

    for (uint32_t i = 0; i < 2 * SHMC_WAYS; i++) {
        const shmc_word *rival = &at->bucket[i / SHMC_WAYS][i % SHMC_WAYS];
        uint64_t w = shmc_load(rival);
        if (rival >= slot || !w || (w & SHMC_PRINT_MASK) != at->print)
            continue;
        if (see(c->t, c->shard, rival, &other) != SHMC_OK
            || other.head.key_len != r->head.key_len
            || (other.head.kind ^ r->head.kind) & SHMC_PIECE
            || memcmp(other.key, r->key, r->head.key_len)
            || !shmc_word_same(load_again(slot), r->word)
            || !shmc_word_same(load_again(rival), other.word))
            continue;
        uint32_t kind = shmc_word_same(other.word, r->word) ? SHMC_F_TWICE
            : SHMC_F_KEY;
        fault(c, kind, shmc_word_extent(r->word), shmc_word_offset(r->word),
              own);
    }
}

/* What is wrong with a seen record and its slot, or SHMC_OK. */
static int judge(const check *c, const shmc_listed *r, const shmc_place *at,
                 uint32_t own)
{
    const shmc_word *slot = slot_at(c->t, c->shard, own);
    uint32_t e = shmc_word_extent(r->word), offset = shmc_word_offset(r->word);
    const walked *w = &c->extents[e];

    if (offset < w->end && (uint16_t)w->generation == r->word >> 48
        && !begins(c, e, offset))
        return SHMC_F_RECORD;
    if (at->shard != c->shard)
        return SHMC_F_SHARD;
    if ((uintptr_t)slot / 64 != (uintptr_t)at->bucket[0] / 64
        && (uintptr_t)slot / 64 != (uintptr_t)at->bucket[1] / 64)
        return SHMC_F_BUCKET;
    if ((r->word & SHMC_PRINT_MASK) != at->print)
        return SHMC_F_PRINT;
    if (r->head.kind & SHMC_PIECE && !piece_sane(c, r))
        return SHMC_F_PIECE;
    if (r->head.kind & SHMC_CHAINED && !chain_sane(c, r))
        return SHMC_F_CHAIN;
    if (r->head.stamp > shmc_clock(c->t))
        return SHMC_F_STAMP;
    return SHMC_OK;
}

/* Check a slot of the index, and what it means. */
static void check_slot(check *c, uint32_t own)
{
    const shmc_word *slot = slot_at(c->t, c->shard, own);
    shmc_listed r;
    shmc_place at;
    int rc = see(c->t, c->shard, slot, &r);
    uint32_t e = shmc_word_extent(r.word), offset = shmc_word_offset(r.word);

    if (rc == SHMC_MISS)
        return;
    if (rc == SHMC_CHANGED) {
        c->out->unsettled++;
        return;
    }
    if (rc == SHMC_OK) {
        place_of(c->t, c->shard, &r, &at);
        rc = judge(c, &r, &at, own);
    }
    if (rc != SHMC_OK) {
        fault(c, (uint32_t)rc, e, offset, own);
        return;
    }
    check_twice(c, &r, &at, own);
    c->extents[e].records++;
    c->extents[e].bytes += r.head.bytes;
    c->out->records++;
    c->out->live_bytes += r.head.bytes;
    c->out->pieces += (r.head.kind & SHMC_PIECE) != 0;
    if (r.head.kind & SHMC_CHAINED)
        count_chain(c, &r, slot);
}

/* ---- counts -------------------------------------------------------------- */

/* Compare what the extents' headers book as live with what slots mean, where
 * the header stood still all the while.
 */
static void count_drift(check *c)
{
    headers after;

    read_headers(c->s, &after);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        const shmc_extent *x = &after.extents[e];
        const walked *w = &c->extents[e];
        if (x->queue == SHMC_Q_FREE
            || memcmp(x, &c->before.extents[e], sizeof *x)
            || after.generations[e] != c->before.generations[e])
            continue;
        int64_t records = (int64_t)x->live_records - w->records;
        int64_t bytes = (int64_t)x->live_bytes - w->bytes;
        c->out->drifted += records || bytes;
        c->out->drift_records += records;
        c->out->drift_bytes += bytes;
    }
}

static void count_ghosts(check *c)
{
    size_t n = (size_t)c->t->g.ghost_buckets * 16;
    const uint32_t *ghosts = c->t->ghosts + n * c->shard;

    for (size_t i = 0; i < n; i++)
        c->out->ghosts += SHMC_GET(ghosts[i]) != 0;
}

/* Whether the kernel marked the lock as a dead holder's: in its first word, as
 * glibc has it.
 */
static uint32_t orphaned(const pthread_mutex_t *lock)
{
    return (SHMC_GET(*(const uint32_t *)lock) & OWNER_DIED) != 0;
}

/* Words of memory that a check needs for its marks. */
size_t shmc_check_words(const shmc *t)
{
    return (size_t)SHMC_EXTENTS * t->g.extent_bytes / 8 / 64 + 1;
}

/* Walk every extent's log. A victim's cursor stands where a record begins, or
 * at the end.
 */
static void check_logs(check *c)
{
    uint32_t v = c->before.victim, cursor = c->before.cursor;

    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        walk_extent(c, e);
    if (v < SHMC_NO_EXTENT && cursor < c->extents[v].end
        && c->extents[v].generation == c->before.generations[v]
        && !begins(c, v, cursor))
        fault(c, SHMC_F_VICTIM, v, cursor, SHMC_NOWHERE);
}

/* Check a shard, `shard` below the geometry's. `starts` is the caller's memory,
 * shmc_check_words words of any content. Takes no lock, waits for nobody,
 * writes nothing of the segment, and ends whatever its bytes are. A shard that
 * is disabled or being wiped has nothing to check.
 */
void shmc_check(shmc *t, uint32_t shard, uint64_t *starts, shmc_report *out)
{
    shmc_shard *s = &t->shards[shard];
    check c = {.t = t, .s = s, .shard = shard, .starts = starts, .out = out};

    memset(out, 0, sizeof *out);
    memset(starts, 0, shmc_check_words(t) * sizeof *starts);
    int settled = settled_headers(s, &c.before);
    out->unsettled += !settled;
    out->disabled = c.before.disabled;
    out->orphaned = orphaned(&s->lock);
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
        uint32_t queue = c.before.extents[e].queue;
        out->extents[queue < SHMC_QUEUES ? queue : SHMC_Q_FREE]++;
    }
    count_ghosts(&c);
    if (out->disabled == 1 || out->disabled == 2)
        return;
    if (settled)
        check_headers(&c);
    check_logs(&c);
    for (uint32_t i = 0; i < t->g.buckets * SHMC_WAYS; i++)
        check_slot(&c, i);
    count_drift(&c);
    if (out->pieces > c.named)
        out->orphan_pieces = out->pieces - c.named;
}

/* ---- stripes ------------------------------------------------------------- */

static uint64_t highest(const shmc_word *w, uint32_t n)
{
    uint64_t top = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t one = shmc_load(&w[i]);
        if (one > top)
            top = one;
    }
    return top;
}

/* Compare stripes, and the words of everything, with what stands above them. A
 * raise lifts the clock first, then the top, then the stripe: so they are read
 * the other way round.
 */
void shmc_check_stripes(const shmc *t, shmc_stripes *out)
{
    const shmc_header *h = t->header;
    uint64_t floors = highest(t->key_floor, t->g.key_stripes);
    uint64_t softs = highest(t->key_soft, t->g.key_stripes);
    const uint64_t tops[] = {
        shmc_load(&h->floor_top), shmc_load(&h->soft_top),
        highest(t->key_hard, t->g.key_stripes),
        highest(t->tag_hard, t->g.tag_stripes),
        highest(t->tag_soft, t->g.tag_stripes),
        shmc_load(&h->clear_hard), shmc_load(&h->clear_soft),
        shmc_load(&h->gap),
    };
    uint64_t clock = shmc_clock(t);

    out->above_top = (floors > tops[0]) + (softs > tops[1]);
    out->above_clock = 0;
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        out->above_clock += tops[i] > clock;
}

/* ---- the outbox ---------------------------------------------------------- */

/* Whether the words of an entry's name are such as write no entry's beginning. */
static int name_sane(const shmc *t, uint64_t at, uint64_t n)
{
    uint64_t all = 0;

    for (uint64_t i = 4; i < n; i++)
        all |= shmc_ring_load(t, at + i);
    return !(all >> 56);
}

/* Whether an entry, read as unsent, still is when `lowest` has been read, and
 * stands below that: it was lowered before the entry was to be seen.
 */
static int hidden(const shmc *t, uint64_t at, const shmc_entry *e)
{
    uint64_t lowest = shmc_load(&t->outbox->lowest);

    return !e->sent && lowest > e->clock
        && shmc_ring_load(t, at) == (1ull << 63 | e->number)
        && shmc_load(&t->outbox->head) <= at;
}

/* Check the entries from `at` to `tail`. What the head has passed meanwhile may
 * have been another's when it was read, and is passed over.
 */
static void check_entries(const shmc *t, uint64_t at, uint64_t tail,
                          shmc_outbox_report *out)
{
    uint64_t clock = 0, head;
    shmc_entry e;

    while (at < tail) {
        uint64_t n = shmc_entry_at(t, at, tail, &e);
        int whole = n && e.kind && name_sane(t, at, n);
        if ((head = shmc_load(&t->outbox->head)) > at) {
            at = head;
            continue;
        }
        out->found[SHMC_O_ENTRY] += !whole;
        if (!n)
            return;
        out->found[SHMC_O_CLOCK] += e.clock < clock || e.clock > shmc_clock(t);
        out->found[SHMC_O_LOWEST] += hidden(t, at, &e);
        out->entries++;
        out->unsent += !e.sent;
        clock = e.clock;
        at += n;
    }
}

/* Check the outbox. Takes no lock, writes nothing, and ends whatever its bytes
 * are.
 */
void shmc_check_outbox(const shmc *t, shmc_outbox_report *out)
{
    const shmc_outbox *o = t->outbox;
    uint64_t head, tail;
    int looks = 0;

    memset(out, 0, sizeof *out);
    out->disabled = SHMC_GET(o->disabled);
    out->orphaned = orphaned(&o->lock);
    out->lost = shmc_load(&o->mark);
    out->found[SHMC_O_STATE] = out->disabled > 1;
    out->found[SHMC_O_CLOCK] = out->lost >> 16 > shmc_clock(t);
    do {
        head = shmc_load(&o->head);
        tail = shmc_load(&o->tail);
    } while (load_again(&o->head) != head && ++looks < LOOKS);
    if (head > tail || tail - head > shmc_ring_words(t))
        out->found[SHMC_O_ENDS] = looks < LOOKS;
    else
        check_entries(t, head, tail, out);
}

/* ---- listing ------------------------------------------------------------- */

/* Tell the record that a slot of a shard's index means, pieces left out. A
 * record keeps its slot while it stands, wherever it is moved: so whoever goes
 * through all slots meets it once. SHMC_OK; SHMC_MISS: none, or one that
 * readers take for absent.
 */
int shmc_list(shmc *t, uint32_t shard, uint32_t slot, int64_t now,
              shmc_listed *out)
{
    if (see(t, shard, slot_at(t, shard, slot), out) != SHMC_OK
        || out->head.kind & SHMC_PIECE)
        return SHMC_MISS;
    int state = shmc_judge(t, &out->head, out->tags, out->hash, now);
    if (state < 0)
        return SHMC_MISS;
    out->state = (uint32_t)state;
    return SHMC_OK;
}
