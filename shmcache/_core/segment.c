/* segment.c: the segment's geometry, its making and its attaching. */
#include "inner.h"
#include "hash.h"

#include <gnu/libc-version.h>
#include <stdio.h>

_Static_assert(sizeof(shmc_header) <= SHMC_PAGE, "the header is one page");
_Static_assert(sizeof(shmc_slot) == 1024, "a process slot");
_Static_assert(sizeof(shmc_claim) == 64, "a claim is one cache line");
_Static_assert(sizeof(shmc_record) == 56, "head of a record");
_Static_assert(sizeof(shmc_shard) % 64 == 0, "shards share no cache line");
_Static_assert(sizeof(shmc_word) == 8 && ATOMIC_LLONG_LOCK_FREE == 2,
               "words are atomic between processes");

#define MIB (1ull << 20)
#define SMALLEST (MIB / 4)
#define SHARD_BYTES (32 * MIB)          /* 64 extents of 512 KiB */
#define SHARD_BYTES_SMALL (8 * MIB)     /* of a segment below 64 MiB */
#define RECORD_BYTES 320                /* where nothing is configured */
#define RECORD_OVERHEAD 80              /* head, key and padding, about */
#define SLOT_BYTES 1600                 /* of log, for each slot at least */
#define OUTBOX_LEAST (16u * 1024)
#define OUTBOX_SMALL (64u * 1024)       /* from 4 MiB up: a thousand entries */
#define OUTBOX_MOST (4u * 1024 * 1024)
#define WORDS_REGION SHMC_PAGE          /* breakers; stream; hot */

enum {
    R_SLOTS, R_CLAIMS, R_KEY_HARD, R_KEY_FLOOR, R_KEY_SOFT, R_TAG_HARD,
    R_TAG_SOFT, R_BREAKERS, R_STREAM, R_OUTBOX, R_SHARDS, R_INDEX, R_GHOSTS,
    R_HOT, R_EXTENTS, REGIONS
};

static const char *const names[REGIONS] = {
    "slots", "claims", "key_hard", "key_floor", "key_soft", "tag_hard",
    "tag_soft", "breakers", "stream", "outbox", "shards", "index", "ghosts",
    "hot", "extents",
};

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + SHMC_PAGE - 1) & ~(uint64_t)(SHMC_PAGE - 1);
}

/* The greatest power of two that is not above `n`, kept within [low, high]. */
static uint32_t power(uint64_t n, uint32_t low, uint32_t high)
{
    uint32_t p = low;
    while (p < high && (uint64_t)p * 2 <= n)
        p *= 2;
    return p;
}

/* The bytes that each known region needs under a geometry. */
static void lengths_of(const shmc_geometry *g, uint64_t out[REGIONS])
{
    uint64_t shards = g->shards;

    out[R_SLOTS] = SHMC_SLOTS * sizeof(shmc_slot);
    out[R_CLAIMS] =
        (uint64_t)g->claim_sets * SHMC_CLAIM_WAYS * sizeof(shmc_claim);
    out[R_KEY_HARD] = 8ull * g->key_stripes;
    out[R_KEY_FLOOR] = out[R_KEY_SOFT] = out[R_KEY_HARD];
    out[R_TAG_HARD] = out[R_TAG_SOFT] = 8ull * g->tag_stripes;
    out[R_BREAKERS] = out[R_STREAM] = out[R_HOT] = WORDS_REGION;
    out[R_OUTBOX] = g->outbox_bytes;
    out[R_SHARDS] = shards * sizeof(shmc_shard);
    out[R_INDEX] = shards * g->buckets * SHMC_WAYS * 8;
    out[R_GHOSTS] = shards * g->ghost_buckets * 64;
    out[R_EXTENTS] = shards * SHMC_EXTENTS * g->extent_bytes;
}

/* Bytes of a segment of this geometry, header included. */
static uint64_t bytes_of(const shmc_geometry *g)
{
    uint64_t length[REGIONS], sum = SHMC_PAGE;

    lengths_of(g, length);
    for (int i = 0; i < REGIONS; i++)
        sum += aligned(length[i]);
    return sum;
}

/* How many shards. A stopped writer holds up one of them, so eight from 64 MiB
 * up; records so large that an extent would hold less than four want fewer.
 */
static uint32_t shards_for(uint64_t size, uint64_t record)
{
    uint32_t n = power(size / SHARD_BYTES_SMALL, 1, 8);

    while (n < SHMC_SHARDS_MAX && size / n > SHARD_BYTES)
        n *= 2;
    while (n > 1 && size / n / SHMC_EXTENTS < 4 * record)
        n /= 2;
    return n;
}

/* Bytes of the outbox: a 128th of the segment, of a small one a 64th. */
static uint32_t outbox_for(uint64_t size)
{
    return power(size / 128, power(size / 64, OUTBOX_LEAST, OUTBOX_SMALL),
                 OUTBOX_MOST);
}

/* How many index slots for `bytes` of log: a full log fills three quarters, as
 * beyond inserts find none. Where records are large a few more cost nothing,
 * and pieces of chains and records smaller than the mean need them.
 */
static uint64_t slots_for(uint64_t bytes, uint64_t whole)
{
    uint64_t expected = bytes / (whole * 3 / 4), least = bytes / SLOT_BYTES;

    return expected > least ? expected : least;
}

/* Choose the sizes of a segment of `size` bytes whose records have about
 * `record_bytes` (0: not known), of `shards` shards (a power of two; 0: as
 * many as suit it). SHMC_TOO_SMALL below about 450 KiB.
 */
int shmc_plan(uint64_t size, uint32_t record_bytes, uint32_t shards,
              shmc_geometry *out)
{
    shmc_geometry g = {.size = size & ~(uint64_t)(SHMC_PAGE - 1)};
    uint64_t record = record_bytes ? record_bytes : RECORD_BYTES;
    uint64_t whole = record + RECORD_OVERHEAD, fixed, each;

    if (g.size < SMALLEST)
        return SHMC_TOO_SMALL;
    g.record_bytes = record_bytes;
    g.shards = shards ? power(shards, 1, SHMC_SHARDS_MAX)
        : shards_for(g.size, record);
    g.claim_sets = power(g.size >> 17, 32, 512);
    g.key_stripes = power(g.size / 512 / 8, 1u << 10, 1u << 18);
    g.tag_stripes = power(g.size / 256 / 8, 1u << 10, 1u << 20);
    g.outbox_bytes = outbox_for(g.size);
    fixed = bytes_of(&g);
    each = (g.size - fixed) / g.shards;
    g.buckets = (uint32_t)(slots_for(each, whole) / SHMC_WAYS) + 2;
    g.ghost_buckets = (uint32_t)(each / whole * 6 / 64) + 1;
    fixed = bytes_of(&g);
    if (fixed >= g.size)
        return SHMC_TOO_SMALL;
    each = (g.size - fixed) / g.shards / SHMC_EXTENTS & ~63ull;
    if (each > 0x3fffffull * 8)
        each = 0x3fffffull * 8 & ~63ull;
    if (each < 4096)
        return SHMC_TOO_SMALL;
    g.extent_bytes = (uint32_t)each;
    *out = g;
    return SHMC_OK;
}

/* What a build must share with another to use the same segment. */
uint32_t shmc_layout_hash(void)
{
    static const uint64_t seed[2] = {0, 0};
    char text[512];
    int n = snprintf(text, sizeof text,
        "%u %s %s %zu %zu %zu %zu %zu %zu %zu %zu %zu %d", SHMC_LAYOUT,
        __VERSION__, gnu_get_libc_version(), sizeof(shmc_header), sizeof(shmc_slot),
        sizeof(shmc_claim), sizeof(shmc_shard), sizeof(shmc_extent),
        sizeof(shmc_record), sizeof(shmc_outbox), sizeof(pthread_mutex_t),
        sizeof(void *), __BYTE_ORDER__);
    return (uint32_t)shmc_siphash(seed, text, (size_t)n);
}

/* Make a lock: robust, and shared between processes. 0 or an errno. */
static int lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t a;
    int rc = pthread_mutexattr_init(&a);

    if (rc)
        return rc;
    rc = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    if (!rc)
        rc = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    if (!rc)
        rc = pthread_mutex_init(lock, &a);
    pthread_mutexattr_destroy(&a);
    return rc;
}

/* Put a shard of zeroed memory into its first state: free but the reserve. */
static int init_shard(shmc_shard *s)
{
    for (uint32_t e = 0; e < SHMC_EXTENTS; e++)
        atomic_store(&s->generations[e], 1);
    SHMC_STEP("init.generations");
    for (int q = 0; q < SHMC_QUEUES; q++)
        s->open[q] = SHMC_NO_EXTENT;
    s->rest = s->victim = SHMC_NO_EXTENT;
    SHMC_STEP("init.heads");
    return lock_init(&s->lock);
}

/* Put the outbox of zeroed memory into its first state: nothing is unsent. */
static int init_outbox(shmc_outbox *o)
{
    atomic_store(&o->lowest, UINT64_MAX);
    SHMC_STEP("init.outbox");
    return lock_init(&o->lock);
}

/* Make a segment in zeroed memory of at least g->size bytes. SHMC_OK, or
 * SHMC_DISABLED if the system has no robust shared locks; then it is not ready.
 */
int shmc_init(void *base, const shmc_geometry *g, const shmc_identity *id,
              const uint64_t seed[2])
{
    shmc_header *h = base;
    uint64_t length[REGIONS], offset = SHMC_PAGE;

    memcpy(h->magic, "SHMCACHE", 8);
    SHMC_STEP("init.magic");
    h->layout = SHMC_LAYOUT;
    h->layout_hash = shmc_layout_hash();
    h->seed[0] = seed[0];
    h->seed[1] = seed[1];
    h->geometry = *g;
    h->identity = *id;
    SHMC_STEP("init.header");
    lengths_of(g, length);
    for (int i = 0; i < REGIONS; i++) {
        strncpy(h->regions[i].name, names[i], sizeof h->regions[i].name - 1);
        h->regions[i].offset = offset;
        SHMC_STEP("init.region");
        h->regions[i].length = length[i];
        h->regions[i].version = 1;
        offset += aligned(length[i]);
    }
    SHMC_STEP("init.regions");
    shmc_shard *shards =
        (shmc_shard *)((uint8_t *)base + h->regions[R_SHARDS].offset);
    for (uint32_t i = 0; i < g->shards; i++) {
        if (init_shard(&shards[i]) || SHMC_FAILS("init.shard"))
            return SHMC_DISABLED;
    }
    SHMC_STEP("init.shards");
    if (init_outbox((shmc_outbox *)((uint8_t *)base
                                    + h->regions[R_OUTBOX].offset)))
        return SHMC_DISABLED;
    atomic_store_explicit(&h->state, 1, memory_order_release);
    SHMC_STEP("init.ready");
    return SHMC_OK;
}

static int is_power(uint32_t n, uint32_t most)
{
    return n && n <= most && !(n & (n - 1));
}

/* Whether a geometry keeps the bounds that every mask and product rests on. */
static int sane(const shmc_geometry *g, uint64_t size)
{
    return g->size <= size && g->size >= SMALLEST
        && is_power(g->shards, SHMC_SHARDS_MAX)
        && is_power(g->claim_sets, 1u << 16)
        && is_power(g->key_stripes, 1u << 24)
        && is_power(g->tag_stripes, 1u << 20)
        && is_power(g->outbox_bytes, 1u << 30) && g->outbox_bytes >= SHMC_PAGE
        && g->extent_bytes >= 4096 && g->extent_bytes % 64 == 0
        && g->extent_bytes <= 0x3fffffull * 8
        && g->buckets >= 2 && g->buckets < 1u << 28
        && g->ghost_buckets >= 1 && g->ghost_buckets < 1u << 28;
}

/* The directory's entry of that name, or NULL. */
static const shmc_region *region(const shmc_header *h, const char *name)
{
    for (uint32_t i = 0; i < SHMC_REGIONS; i++)
        if (!strncmp(h->regions[i].name, name, sizeof h->regions[i].name))
            return &h->regions[i];
    return NULL;
}

const shmc_region *shmc_find_region(const shmc *t, const char *name)
{
    const shmc_region *r = *name ? region(t->header, name) : NULL;

    if (!r || r->offset % 8 || r->offset > t->g.size
        || r->length > t->g.size - r->offset)
        return NULL;
    return r;
}

/* Point `t` at the regions. SHMC_BAD_LAYOUT if one is missing, short or
 * outside.
 */
static int find_regions(shmc *t)
{
    uint64_t length[REGIONS];
    void *at[REGIONS];

    lengths_of(&t->g, length);
    for (int i = 0; i < REGIONS; i++) {
        const shmc_region *r = shmc_find_region(t, names[i]);
        if (!r || r->length < length[i] || r->offset < SHMC_PAGE
            || r->offset % SHMC_PAGE)
            return SHMC_BAD_LAYOUT;
        at[i] = t->base + r->offset;
    }
    t->slots = at[R_SLOTS];
    t->claims = at[R_CLAIMS];
    t->key_hard = at[R_KEY_HARD];
    t->key_floor = at[R_KEY_FLOOR];
    t->key_soft = at[R_KEY_SOFT];
    t->tag_hard = at[R_TAG_HARD];
    t->tag_soft = at[R_TAG_SOFT];
    t->outbox = at[R_OUTBOX];
    t->shards = at[R_SHARDS];
    t->index = at[R_INDEX];
    t->ghosts = at[R_GHOSTS];
    t->hot = at[R_HOT];
    t->extents = at[R_EXTENTS];
    return SHMC_OK;
}

/* Attach to the segment of `size` bytes mapped at `base`. SHMC_OK, or
 * SHMC_BAD_LAYOUT (not ready, not of this build, or its sizes disagree).
 */
int shmc_attach(shmc *t, void *base, uint64_t size, int read_only)
{
    shmc_header *h = base;

    memset(t, 0, sizeof *t);
    if (size < SMALLEST || memcmp(h->magic, "SHMCACHE", 8)
        || atomic_load_explicit(&h->state, memory_order_acquire) != 1
        || h->layout != SHMC_LAYOUT || h->layout_hash != shmc_layout_hash())
        return SHMC_BAD_LAYOUT;
    t->g = h->geometry;
    if (!sane(&t->g, size))
        return SHMC_BAD_LAYOUT;
    t->base = base;
    t->header = h;
    t->counters = t->scratch;
    t->read_only = read_only;
    SHMC_STEP("attach.checked");
    return find_regions(t);
}

/* Sum what the headers of a shard's extents say; SHMC_SHARDS_MAX: of all. */
void shmc_measure(const shmc *t, uint32_t shard, shmc_usage *out)
{
    uint32_t first = shard < t->g.shards ? shard : 0;
    uint32_t end = shard < t->g.shards ? shard + 1 : t->g.shards;

    memset(out, 0, sizeof *out);
    for (uint32_t i = first; i < end; i++) {
        shmc_shard *s = &t->shards[i];
        out->disabled_shards += SHMC_GET(s->disabled) == 1;
        for (uint32_t e = 0; e < SHMC_EXTENTS; e++) {
            uint32_t queue = SHMC_GET(s->extents[e].queue);
            out->records += SHMC_GET(s->extents[e].live_records);
            out->live_bytes += SHMC_GET(s->extents[e].live_bytes);
            out->extents[queue < SHMC_QUEUES ? queue : SHMC_Q_FREE]++;
        }
    }
    out->capacity_bytes =
        (uint64_t)(end - first) * SHMC_EXTENTS * t->g.extent_bytes;
}

/* The longest value that may be stored: an eighth of a shard, so that one alone
 * cannot put out what the others need.
 */
uint64_t shmc_value_max(const shmc *t)
{
    return (uint64_t)SHMC_EXTENTS * t->g.extent_bytes / 8;
}
