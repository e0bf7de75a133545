"""table.h as Cython sees it; declarations only."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "inner.h" nogil:
    ctypedef uint64_t shmc_word

    enum: SHMC_SLOTS
    enum: SHMC_COUNTERS
    enum: SHMC_REGIONS
    enum: SHMC_KEY_MAX
    enum: SHMC_TAGS_MAX
    enum: SHMC_NAME_MAX
    enum: SHMC_NAME_ROOM
    enum: SHMC_CLAIM_WAYS
    const uint32_t SHMC_NO_CLAIM
    enum: SHMC_KIND_MASK
    enum: SHMC_SHARDS_MAX
    enum: SHMC_HOT_KEYS
    enum: SHMC_HOT_TABLES
    enum:
        SHMC_Q_FREE
        SHMC_Q_PROBATION
        SHMC_Q_MAIN
        SHMC_Q_REWRITES
    const int64_t SHMC_FOREVER

    enum:
        SHMC_OK
        SHMC_MISS
        SHMC_BUSY
        SHMC_RAISED
        SHMC_LOST
        SHMC_OLDER
        SHMC_TOO_LARGE
        SHMC_DISABLED
        SHMC_CHANGED
        SHMC_BAD_LAYOUT
        SHMC_TOO_SMALL
        SHMC_FULL
        SHMC_STANDS
    enum:
        SHMC_FRESH
        SHMC_STALE
        SHMC_DEAD
    enum:
        SHMC_VALUE
        SHMC_PASS
        SHMC_ERROR
    enum:
        SHMC_C_HITS
        SHMC_C_STALE_HITS
        SHMC_C_MISSES
        SHMC_C_CORE_END
    enum:
        SHMC_TENTATIVE
        SHMC_HELD
        SHMC_FREED
        SHMC_FREED_STORED
        SHMC_FREED_PASS
        SHMC_FREED_REFUSED
        SHMC_FREED_ERROR

    ctypedef struct shmc_region:
        char name[16]
        uint64_t offset
        uint64_t length
        uint32_t version

    ctypedef struct shmc_geometry:
        uint64_t size
        uint32_t shards
        uint32_t extent_bytes
        uint32_t buckets
        uint32_t ghost_buckets
        uint32_t claim_sets
        uint32_t key_stripes
        uint32_t tag_stripes
        uint32_t record_bytes
        uint32_t outbox_bytes

    ctypedef struct shmc_identity:
        uint8_t boot_id[16]
        uint64_t clock_ns
        uint64_t config
        uint32_t uid

    ctypedef struct shmc_header:
        char magic[8]
        uint32_t layout
        uint32_t layout_hash
        shmc_geometry geometry
        shmc_identity identity
        shmc_region regions[32]
        uint32_t state
        shmc_word clear_hard
        shmc_word clear_soft

    ctypedef struct shmc_slot:
        shmc_word incarnation
        int64_t beat
        uint32_t pid
        shmc_word counters[64]

    ctypedef struct shmc_record:
        uint32_t bytes
        uint32_t value_len
        uint16_t key_len
        uint8_t ntags
        uint8_t kind
        uint32_t fill_us
        int64_t birth
        int64_t fresh_until
        int64_t dead_at
        uint64_t stamp
        uint64_t nonce

    ctypedef struct shmc:
        uint8_t *base
        shmc_header *header
        shmc_geometry g
        shmc_slot *slots
        shmc_word *counters
        int read_only

    ctypedef struct shmc_found:
        uint32_t state
        uint32_t length
        shmc_record head
        uint32_t tags[33]

    ctypedef struct shmc_store:
        const void *key
        uint32_t key_len
        uint32_t value_len
        const void *value
        int64_t birth
        int64_t fresh_until
        int64_t dead_at
        uint64_t stamp
        uint64_t nonce
        uint32_t fill_us
        uint8_t kind
        uint8_t ntags
        const uint32_t *tags
        uint32_t claim
        uint64_t claim_word
        int newer_only
        int absent_only
        uint64_t if_nonce
        int raise_ "raise"
        int wait

    ctypedef struct shmc_usage:
        uint64_t records
        uint64_t live_bytes
        uint64_t capacity_bytes
        uint64_t disabled_shards
        uint32_t extents[4]

    int shmc_plan(uint64_t size, uint32_t record_bytes, uint32_t shards,
                  shmc_geometry *out)
    uint32_t shmc_layout_hash()
    int shmc_init(void *base, const shmc_geometry *g, const shmc_identity *id,
                  const uint64_t *seed)
    int shmc_attach(shmc *t, void *base, uint64_t size, int read_only)
    const shmc_region *shmc_find_region(const shmc *t, const char *name)
    void shmc_measure(const shmc *t, uint32_t shard, shmc_usage *out)
    uint64_t shmc_value_max(const shmc *t)

    uint64_t shmc_hash(const shmc *t, const void *key, size_t len)
    int shmc_find(shmc *t, const void *key, uint32_t len, uint64_t hash,
                  int64_t now, shmc_found *out)
    int shmc_copy(shmc *t, const shmc_found *f, void *to)
    void shmc_touch(shmc *t, const shmc_found *f)
    int shmc_put(shmc *t, const shmc_store *s, int64_t now, uint64_t *stamp)
    int shmc_drop(shmc *t, const void *key, uint32_t len, uint64_t floor,
                  uint64_t nonce, int wait)

    uint64_t shmc_clock(const shmc *t)
    uint64_t shmc_number(shmc *t)
    void shmc_raise(shmc_word *stripe, uint64_t number)
    void shmc_raise_gap(shmc *t, uint64_t number, int64_t now)
    void shmc_raise_key(shmc *t, uint64_t hash, uint64_t number, int soft)
    shmc_word *shmc_tag_stripe(shmc *t, uint32_t tag, int soft)
    uint32_t shmc_tag_number(const void *name, size_t len)
    uint64_t shmc_highest(shmc *t, uint64_t hash, const uint32_t *tags,
                          uint32_t ntags, int soft)

    ctypedef struct shmc_entry:
        uint64_t number
        uint64_t clock
        int64_t at
        uint32_t len
        uint8_t kind
        uint8_t sent

    int shmc_outbox_add(shmc *t, uint8_t kind, const void *name, uint32_t len,
                        int64_t at, int wait, uint64_t *number)
    void shmc_outbox_sent(shmc *t, uint64_t number)
    uint64_t shmc_outbox_lowest(const shmc *t)
    int shmc_outbox_next(const shmc *t, uint64_t *position, shmc_entry *out,
                         uint8_t *name)
    void shmc_outbox_tidy(shmc *t)
    uint64_t shmc_outbox_overflow(const shmc *t)
    int shmc_outbox_overflowed(shmc *t, uint64_t seen)
    void shmc_outbox_measure(const shmc *t, uint64_t *unsent, uint64_t *bytes,
                             uint64_t *capacity)

    int shmc_claim_take(shmc *t, uint64_t hash, uint32_t slot, uint32_t *index,
                        uint64_t *word, uint64_t *wake)
    int shmc_claim_over(shmc *t, uint32_t index, uint64_t seen, uint32_t slot,
                        uint64_t *word, uint64_t *wake)
    int shmc_claim_free(shmc *t, uint32_t index, uint64_t word, uint32_t state,
                        uint64_t *wake)
    int shmc_claim_note(shmc *t, uint32_t index, uint64_t word, uint64_t stamp,
                        int64_t deadline, const uint64_t *token)
    int shmc_claim_noted(shmc *t, uint32_t index, uint64_t word,
                         uint64_t *stamp, int64_t *deadline, uint64_t *token)
    int shmc_claim_void(shmc *t, uint32_t index, uint64_t word, uint64_t hash)
    int shmc_claim_wait(shmc *t, uint32_t index, uint64_t word, uint32_t slot)
    uint64_t shmc_claim_word(shmc *t, uint32_t index)

    enum: SHMC_F_KINDS
    const uint32_t SHMC_NOWHERE

    ctypedef struct shmc_fault:
        uint32_t kind
        uint32_t extent
        uint32_t offset
        uint32_t slot

    ctypedef struct shmc_report:
        uint64_t found[18]
        shmc_fault faults[32]
        uint32_t told
        uint32_t disabled
        uint32_t orphaned
        uint32_t unsettled
        uint32_t drifted
        int64_t drift_records
        int64_t drift_bytes
        uint64_t records
        uint64_t live_bytes
        uint64_t filled_bytes
        uint64_t pieces
        uint64_t chains
        uint64_t broken_chains
        uint64_t missing_pieces
        uint64_t orphan_pieces
        uint64_t ghosts
        uint32_t extents[4]

    ctypedef struct shmc_stripes:
        uint64_t above_clock
        uint64_t above_top

    enum: SHMC_O_KINDS

    ctypedef struct shmc_outbox_report:
        uint64_t found[5]
        uint32_t disabled
        uint32_t orphaned
        uint64_t entries
        uint64_t unsent
        uint64_t lost

    ctypedef struct shmc_listed:
        uint64_t word
        uint64_t hash
        uint32_t state
        uint32_t length
        shmc_record head
        uint8_t key[1024]

    size_t shmc_check_words(const shmc *t)
    void shmc_check(shmc *t, uint32_t shard, uint64_t *starts, shmc_report *out)
    void shmc_check_stripes(const shmc *t, shmc_stripes *out)
    void shmc_check_outbox(const shmc *t, shmc_outbox_report *out)
    int shmc_list(shmc *t, uint32_t shard, uint32_t slot, int64_t now,
                  shmc_listed *out)

    # inner.h
    uint64_t shmc_word_load(shmc_word *w)
    void shmc_word_store(shmc_word *w, uint64_t to)
    uint64_t shmc_word_add(shmc_word *w, uint64_t n)
    int shmc_word_cas(shmc_word *w, uint64_t old, uint64_t to)
    void shmc_count(shmc *t, uint32_t counter, uint64_t n)
    int64_t shmc_load_time(int64_t *at)
    void shmc_store_time(int64_t *at, int64_t to)
