/* table.h: the segment drawn, the C API, the memory-order table, the caveats.
 *
 * One file of shared memory holds the records that all processes of a host
 * share. Readers take no lock; writers of one shard take its one lock. The core
 * knows no Python, allocates nothing, reads no clock (times are arguments, in
 * nanoseconds of CLOCK_BOOTTIME; only the lock's own time-out reads
 * CLOCK_MONOTONIC) and never waits but for that lock, or the outbox's, at most
 * 2 ms.
 *
 * SEGMENT
 *   0          header, one page: geometry, seed, identity, directory of regions,
 *              state (published last), the words of everything, the clock
 *   4096 ...   regions, each 4096-aligned, found by name in the directory; an
 *              attacher ignores regions it does not know
 *
 *   slots      one shmc_slot (1024 bytes) for each attached process
 *   claims     sets of SHMC_CLAIM_WAYS claims, one cache line each
 *   key_hard key_floor key_soft    one word for each key stripe
 *   tag_hard tag_soft              one word for each tag stripe
 *   breakers   words of the breakers the host shares (used from above)
 *   stream     words of the stream's follower (used from above)
 *   outbox     one shmc_outbox: a ring of what Redis has yet to be told
 *   shards     one shmc_shard each: lock, extent headers, generations
 *   index      per shard: buckets of eight slots, one cache line each
 *   ghosts     per shard: buckets of sixteen {16-bit print, 16-bit age}
 *   hot        two tables of words {32-bit print, 32-bit weight}: hits, fills
 *   extents    per shard: 64 extents of equal size, the log of records
 *
 * SLOT of the index, one 64-bit word; 0 is empty (no record begins at offset 0)
 *   63         48 47 46 45     40 39           18 17              0
 *   | generation | freq | extent | offset / 8    | fingerprint      |
 *
 * RECORD, 8-byte aligned, never changed in place while a slot means it
 *   shmc_record (56 bytes) | tags, 4 bytes each | key | value | pad to 8
 *
 * CHAIN: a value too large for one record. Its record bears SHMC_CHAINED and, in
 * place of the value, a shmc_chain; the value lies in pieces, records of the
 * same shard that bear SHMC_PIECE and whose key is a shmc_piece_key. Pieces are
 * indexed, kept and evicted each by itself; a missing piece is a miss.
 *
 * CLAIM WORD
 *   63     44 43          24 23           12 11     3 2     0
 *   | hash   | sequence     | incarnation   | slot   | state |
 *
 * ENTRY of the outbox, words of 64 bits; the highest bit is set in the first alone
 *   1 sent(1) number(62) | clock | time added | kind(32) length(32) | name, 7 bytes
 *   each. The number is the entry's position + 1; it stands at its position modulo
 *   the ring's words, and may wrap. The tail is moved behind it when it is whole.
 *
 * FIELD            written by            store        read         guard
 * header.state     creator               release      acquire      exclusive flock
 * clock            any process           fetch_add seq_cst          -
 * stripes, clear   any process           CAS max seq_cst   acquire  only ever rises
 * slot word        writer / any reader   release, CAS      acquire  shard lock / CAS (freq)
 * generation       writer, on reuse      release + fence   acquire  shard lock
 * extent header    writer                relaxed           relaxed  shard lock
 * record bytes     writer                plain memcpy      plain    generation unchanged
 * claim word       any process           CAS seq_cst       seq_cst  CAS
 * claim.noted ...  the holder            release           acquire  noted binds them
 * claim.waiters    any process           or / exchange seq_cst      -
 * process slot     its process           relaxed           relaxed  OFD lock on its byte
 * outbox.head tail who adds, who tidies  seq_cst           seq_cst  outbox lock
 * outbox.lowest    who adds, who tidies  seq_cst           seq_cst  outbox lock
 * outbox.mark      any process           CAS seq_cst       seq_cst  CAS
 * ring word        who adds              release           acquire  outbox lock; believed if
 *                                                                   the head is not beyond
 * first of entry   any process: sent     CAS seq_cst       acquire  CAS
 *
 * CAVEATS
 * - Same user, same trust: a process that may write the segment can corrupt it.
 *   What a reader takes from it is still clamped before use.
 * - The page of a lock is never unmapped or reused while a process may hold it
 *   (robust lists point into it): an attachment is never unmapped.
 * - A forked child must attach anew; the parent's locks and slot are not its own.
 * - A thread killed between two steps of a write costs its own store, no more.
 */
#ifndef SHMC_TABLE_H
#define SHMC_TABLE_H

#include <pthread.h>            /* glibc's <features.h>, where it is glibc */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__linux__) || !defined(__GLIBC__)
#error "shmcache needs Linux and glibc, whose locks are robust and shared between \
processes: in a container take a manylinux_2_34 image, or Debian's, not Alpine's"
#endif

#define SHMC_LAYOUT 3u          /* raise on any change of what is drawn above */
#define SHMC_PAGE 4096u
#define SHMC_SHARDS_MAX 1024u
#define SHMC_EXTENTS 64u        /* per shard: six bits of the slot word */
#define SHMC_WAYS 8u            /* slots of a bucket: one cache line */
#define SHMC_CLAIM_WAYS 8u
#define SHMC_SLOTS 128u         /* processes attached at once */
#define SHMC_COUNTERS 64u
#define SHMC_REGIONS 32u
#define SHMC_KEY_MAX 1024u
#define SHMC_NAME_MAX 1024u     /* of an outbox's entry */
#define SHMC_NAME_ROOM (SHMC_NAME_MAX + 8)      /* to read it into */
#define SHMC_TAGS_MAX 33u       /* 32 tags and one namespace */
#define SHMC_FOREVER INT64_MAX
#define SHMC_NO_CLAIM UINT32_MAX
#define SHMC_GAP_SOFT_NS 4000000000ll   /* the gap word is soft for so long */

typedef _Atomic uint64_t shmc_word;

/* What a call answers. Negative: nothing was done. */
enum {
    SHMC_OK = 0,
    SHMC_MISS = -1,             /* no such record */
    SHMC_BUSY = -2,             /* the shard's lock was not to be had in time */
    SHMC_RAISED = -3,           /* an invalidation stands above the stamp */
    SHMC_LOST = -4,             /* the claim is no longer the caller's */
    SHMC_OLDER = -5,            /* a record of a later birth stands there */
    SHMC_TOO_LARGE = -6,        /* the record can never fit */
    SHMC_DISABLED = -7,         /* the shard could not be recovered */
    SHMC_CHANGED = -8,          /* bytes were reused while they were copied */
    SHMC_BAD_LAYOUT = -9,       /* not a segment, or not of this build */
    SHMC_TOO_SMALL = -10,       /* the size cannot hold one shard */
    SHMC_FULL = -11,            /* every claim of the set is taken; no room, or no
                                   lock, for an outbox's entry: it is marked lost */
    SHMC_STANDS = -12           /* what stands is not what the store asks for */
};

/* What a found record is worth now. */
enum { SHMC_FRESH = 0, SHMC_STALE = 1, SHMC_DEAD = 2 };

/* What kind of record it is. The core stores the number and reads none of it;
 * the flags are its own.
 */
enum { SHMC_VALUE = 0, SHMC_PASS = 1, SHMC_ERROR = 2 };
#define SHMC_KIND_MASK 0x1fu
#define SHMC_GONE 0x20u         /* set once no slot means it; a hint, see extent.c */
#define SHMC_CHAINED 0x40u      /* the value is a shmc_chain */
#define SHMC_PIECE 0x80u        /* the key is a shmc_piece_key */

/* A process' counters, by index; names in the same order in stats.py. */
enum {
    SHMC_C_HITS, SHMC_C_STALE_HITS, SHMC_C_MISSES, SHMC_C_RETRIES, SHMC_C_STORES,
    SHMC_C_REPLACED, SHMC_C_INVALIDATED, SHMC_C_EXPIRED, SHMC_C_EVICTED,
    SHMC_C_REFUSED_RAISED, SHMC_C_REFUSED_LOST, SHMC_C_REFUSED_OLDER,
    SHMC_C_TOO_LARGE, SHMC_C_NO_SLOT, SHMC_C_LOCK_TIMEOUTS, SHMC_C_LOCKS_RECOVERED,
    SHMC_C_SHARDS_WIPED, SHMC_C_CLAIMS_FULL, SHMC_C_CORE_END
};

/* One named piece of the segment. */
typedef struct shmc_region {
    char name[16];              /* zero-padded */
    uint64_t offset;            /* from the segment's start */
    uint64_t length;            /* bytes */
    uint32_t version;           /* of the region's own layout */
    uint32_t spare;
} shmc_region;

/* Sizes chosen once, when the segment is made. */
typedef struct shmc_geometry {
    uint64_t size;              /* bytes of the whole segment */
    uint32_t shards;            /* power of two */
    uint32_t extent_bytes;      /* of each of a shard's 64 extents; multiple of 64 */
    uint32_t buckets;           /* of the index, per shard */
    uint32_t ghost_buckets;     /* per shard */
    uint32_t claim_sets;        /* power of two */
    uint32_t key_stripes;       /* power of two */
    uint32_t tag_stripes;       /* power of two; the low bits of the tag's number */
    uint32_t record_bytes;      /* expected mean record, as configured */
    uint32_t outbox_bytes;      /* power of two */
} shmc_geometry;

/* Who made the segment; an attacher compares before it trusts. */
typedef struct shmc_identity {
    uint8_t boot_id[16];        /* of the kernel: times do not outlive a boot */
    uint64_t clock_ns;          /* inode of the clock namespace */
    uint64_t config;            /* digest of what the creator was asked for */
    uint32_t uid;               /* owner */
    uint32_t spare;
} shmc_identity;

typedef struct shmc_header {
    char magic[8];              /* "SHMCACHE" */
    uint32_t layout;            /* SHMC_LAYOUT */
    uint32_t layout_hash;       /* compiler, libc and struct sizes */
    uint64_t seed[2];           /* of the keyed hash */
    shmc_geometry geometry;
    shmc_identity identity;
    shmc_region regions[SHMC_REGIONS];
    _Alignas(64) _Atomic uint32_t state;        /* 0 in the making, 1 ready */
    _Alignas(64) shmc_word clear_hard;          /* stripe of everything */
    shmc_word clear_soft;
    shmc_word gap;              /* stripe of everything, soft for 4 s from gap_at */
    _Atomic int64_t gap_at;     /* when it was raised, ns */
    shmc_word floor_top;        /* no key stripe's floor stands above it */
    shmc_word soft_top;         /* no key stripe's soft word does */
    _Alignas(64) shmc_word clock;               /* the invalidation clock */
} shmc_header;

/* One attached process. Written by that process alone. */
typedef struct shmc_slot {
    shmc_word incarnation;      /* raised by each taker before it uses the slot */
    _Atomic int64_t beat;       /* last sign of life of its event loop, ns */
    _Atomic uint32_t pid;       /* told to people, decides nothing */
    _Atomic uint32_t flags;
    uint8_t spare[40];
    _Alignas(64) shmc_word counters[SHMC_COUNTERS];     /* never zeroed */
    uint8_t rest[448];
} shmc_slot;

/* One claim: who on this host computes a key. */
typedef struct shmc_claim {
    shmc_word word;             /* drawn above; changed by CAS alone */
    shmc_word waiters;          /* bit i: the process in slot i is parked here */
    shmc_word noted;            /* binds the word and what follows: a digest */
    shmc_word stamp;            /* invalidation clock of the compute's start */
    shmc_word token[2];         /* of the Redis lease, 0 if none */
    _Atomic int64_t deadline;   /* ns; hard end of the compute */
    shmc_word spare;
} shmc_claim;

/* State of a claim word. From SHMC_FREED on the claim may be taken; the last
 * state tells those who waited how it ended. */
enum {
    SHMC_TENTATIVE = 1, SHMC_HELD = 2,
    SHMC_FREED = 0, SHMC_FREED_STORED = 3, SHMC_FREED_PASS = 4,
    SHMC_FREED_REFUSED = 5, SHMC_FREED_ERROR = 6
};

/* Head of a record in an extent. */
typedef struct shmc_record {
    uint32_t bytes;             /* whole record, padded; a multiple of 8 */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t ntags;
    uint8_t kind;
    uint32_t fill_us;           /* how long the compute took */
    int64_t birth;              /* ns */
    int64_t fresh_until;        /* ns; SHMC_FOREVER */
    int64_t dead_at;            /* ns; end of grace */
    uint64_t stamp;             /* clock it was begun under */
    uint64_t nonce;             /* random, of its fill */
} shmc_record;

/* What stands in place of a value that lies in pieces. */
typedef struct shmc_chain {
    uint64_t id;                /* of the shard, never given twice */
    uint32_t length;            /* bytes of the whole value */
    uint32_t piece_bytes;       /* of each piece but the last */
} shmc_chain;

/* The key of one piece. Its hash, with the chain's shard, places it. */
typedef struct shmc_piece_key {
    uint64_t id;
    uint32_t number;            /* from 0 */
    uint32_t spare;             /* 0 */
} shmc_piece_key;

/* One extent's bookkeeping, under the shard's lock; reset at reuse. */
typedef struct shmc_extent {
    uint32_t queue;             /* FREE, PROBATION, MAIN, REWRITES */
    uint32_t fill;              /* bytes appended and published */
    uint64_t age;               /* order of opening within the shard */
    uint32_t live_bytes;        /* of records still indexed; may drift if killed */
    uint32_t live_records;
    uint64_t spare;
} shmc_extent;
enum { SHMC_Q_FREE, SHMC_Q_PROBATION, SHMC_Q_MAIN, SHMC_Q_REWRITES, SHMC_QUEUES };

typedef struct shmc_shard {
    pthread_mutex_t lock;       /* robust, process-shared */
    _Alignas(64) uint64_t opened;       /* ages given out */
    uint64_t evicted_bytes;     /* clock of the ghost list */
    uint64_t chains;            /* ids given out */
    uint32_t disabled;          /* 1: not recoverable, every call misses; 2: being
                                   wiped, whoever recovers the lock goes on */
    uint32_t open[SHMC_QUEUES]; /* extent being filled, by queue; 64 = none */
    uint32_t rest;              /* probation's last one, for what fits; 64 = none */
    uint32_t victim;            /* extent being emptied; 64 = none */
    uint32_t cursor;            /* offset of its next record to look at */
    uint32_t sparse;            /* 1: all that stands in it is kept */
    uint32_t moved;             /* bytes of it that were moved on */
    uint32_t free;              /* extents, when last counted; less those opened */
    uint32_t survival;          /* of the last victims' bytes, in 1/256 */
    _Alignas(64) shmc_extent extents[SHMC_EXTENTS];
    _Alignas(64) shmc_word generations[SHMC_EXTENTS];   /* written on reuse only */
} shmc_shard;

/* What Redis has yet to be told. Positions count words since it was made. */
typedef struct shmc_outbox {
    pthread_mutex_t lock;       /* robust, process-shared */
    uint32_t disabled;          /* 1: the lock is none; what is added is lost */
    _Alignas(64) shmc_word head;        /* position of the oldest entry kept */
    shmc_word tail;             /* behind the youngest */
    _Alignas(64) shmc_word lowest;      /* clock of the first unsent entry, or
                                   lower; UINT64_MAX: there is none */
    shmc_word mark;             /* of what was lost: clock << 16 | how many */
    _Alignas(64) shmc_word ring[];
} shmc_outbox;

/* An entry of it, read. */
typedef struct shmc_entry {
    uint64_t number;            /* its position + 1 */
    uint64_t clock;             /* as it stood when it was added */
    int64_t at;                 /* time then, ns */
    uint32_t len;               /* bytes of its name */
    uint8_t kind, sent;
} shmc_entry;

/* One process' attachment. In that process' memory, given by the caller. */
typedef struct shmc {
    uint8_t *base;
    shmc_header *header;
    shmc_geometry g;            /* copied and checked at attach */
    shmc_slot *slots;
    shmc_claim *claims;
    shmc_word *key_hard, *key_floor, *key_soft, *tag_hard, *tag_soft;
    shmc_shard *shards;
    shmc_outbox *outbox;
    shmc_word *index;
    uint32_t *ghosts;
    shmc_word *hot;
    uint8_t *extents;
    shmc_word *counters;        /* this process' slot, or scratch if it has none */
    shmc_word scratch[SHMC_COUNTERS];
    uint32_t hits;              /* since attached, to sample them */
    int read_only;              /* touch no frequency, count nothing */
    int64_t try_until[SHMC_SHARDS_MAX]; /* CLOCK_MONOTONIC ns: only try till then */
    int64_t outbox_try_until;
} shmc;

/* A record found, before its value is copied. Believed only after shmc_copy. */
typedef struct shmc_found {
    shmc_word *slot;
    uint64_t word;
    shmc_word *generation;
    uint64_t generation_seen;
    const uint8_t *value;
    uint64_t hash;              /* of the key */
    uint32_t state;             /* SHMC_FRESH, _STALE, _DEAD */
    uint32_t length;            /* bytes of the whole value */
    shmc_chain chain;           /* where head.kind bears SHMC_CHAINED */
    shmc_record head;
    uint32_t tags[SHMC_TAGS_MAX];
} shmc_found;

/* A record to store, and on what condition. */
typedef struct shmc_store {
    const void *key;
    uint32_t key_len;
    uint32_t value_len;
    const void *value;
    int64_t birth, fresh_until, dead_at;
    uint64_t stamp, nonce;
    uint32_t fill_us;
    uint8_t kind, ntags;
    const uint32_t *tags;
    uint32_t claim;             /* index, or SHMC_NO_CLAIM */
    uint64_t claim_word;        /* stored only if the claim still bears it */
    int newer_only;             /* refused if a record of a later birth stands */
    int absent_only;            /* refused if a record that is not dead stands */
    uint64_t if_nonce;          /* not 0: refused unless one of this nonce does */
    int raise;                  /* take a number, raise the key, bear it as stamp;
                                   with if_nonce the stamp stays */
    int wait;                   /* for the shard's lock, at most 2 ms; 0: only try,
                                   and a value in pieces is left for later */
} shmc_store;

/* What stands in the segment now, read without a lock: near enough. */
typedef struct shmc_usage {
    uint64_t records, live_bytes, capacity_bytes, disabled_shards;
    uint32_t extents[SHMC_QUEUES];      /* by queue */
} shmc_usage;

/* Segment (segment.c) */
int shmc_plan(uint64_t size, uint32_t record_bytes, uint32_t shards,
              shmc_geometry *out);
uint32_t shmc_layout_hash(void);
int shmc_init(void *base, const shmc_geometry *g, const shmc_identity *id,
              const uint64_t seed[2]);
int shmc_attach(shmc *t, void *base, uint64_t size, int read_only);
const shmc_region *shmc_find_region(const shmc *t, const char *name);
void shmc_measure(const shmc *t, uint32_t shard, shmc_usage *out);
uint64_t shmc_value_max(const shmc *t);

/* Table (table.c, extent.c) */
uint64_t shmc_hash(const shmc *t, const void *key, size_t len);
int shmc_find(shmc *t, const void *key, uint32_t len, uint64_t hash,
              int64_t now, shmc_found *out);
int shmc_copy(shmc *t, const shmc_found *f, void *to);
void shmc_touch(shmc *t, const shmc_found *f);
int shmc_put(shmc *t, const shmc_store *s, int64_t now, uint64_t *stamp);
int shmc_drop(shmc *t, const void *key, uint32_t len, uint64_t floor,
              uint64_t nonce, int wait);

/* Hot keys (hot.c) */
enum { SHMC_HOT_HITS, SHMC_HOT_FILLS, SHMC_HOT_TABLES };
#define SHMC_HOT_KEYS 64u       /* of each table */
#define SHMC_HOT_SAMPLE 64u     /* one hit of so many is noted, for all */
#define SHMC_HOT_US 64u         /* a fill's weight counts so many microseconds */
void shmc_hot_add(shmc *t, uint32_t table, uint64_t hash, uint64_t weight);

/* Invalidation clock (invalidation.c) */
uint64_t shmc_clock(const shmc *t);
uint64_t shmc_number(shmc *t);
void shmc_raise_key(shmc *t, uint64_t hash, uint64_t number, int soft);
void shmc_raise_floor(shmc *t, uint64_t hash, uint64_t number);
shmc_word *shmc_tag_stripe(shmc *t, uint32_t tag, int soft);
void shmc_raise(shmc_word *stripe, uint64_t number);
void shmc_raise_gap(shmc *t, uint64_t number, int64_t now);
uint32_t shmc_tag_number(const void *name, size_t len);
uint64_t shmc_highest(shmc *t, uint64_t hash, const uint32_t *tags,
                      uint32_t ntags, int soft);

/* Outbox (outbox.c) */
int shmc_outbox_add(shmc *t, uint8_t kind, const void *name, uint32_t len,
                    int64_t at, int wait, uint64_t *number);
void shmc_outbox_sent(shmc *t, uint64_t number);
uint64_t shmc_outbox_lowest(const shmc *t);
int shmc_outbox_next(const shmc *t, uint64_t *position, shmc_entry *out,
                     uint8_t *name);
void shmc_outbox_tidy(shmc *t);
uint64_t shmc_outbox_overflow(const shmc *t);
int shmc_outbox_overflowed(shmc *t, uint64_t seen);
void shmc_outbox_measure(const shmc *t, uint64_t *unsent, uint64_t *bytes,
                         uint64_t *capacity);

/* Claims (claim.c). To *wake is added whom the caller must wake. */
int shmc_claim_take(shmc *t, uint64_t hash, uint32_t slot, uint32_t *index,
                    uint64_t *word, uint64_t *wake);
int shmc_claim_over(shmc *t, uint32_t index, uint64_t seen, uint32_t slot,
                    uint64_t *word, uint64_t *wake);
int shmc_claim_free(shmc *t, uint32_t index, uint64_t word, uint32_t state,
                    uint64_t *wake);
int shmc_claim_note(shmc *t, uint32_t index, uint64_t word, uint64_t stamp,
                    int64_t deadline, const uint64_t token[2]);
int shmc_claim_noted(shmc *t, uint32_t index, uint64_t word, uint64_t *stamp,
                     int64_t *deadline, uint64_t token[2]);
int shmc_claim_void(shmc *t, uint32_t index, uint64_t word, uint64_t hash);
int shmc_claim_wait(shmc *t, uint32_t index, uint64_t word, uint32_t slot);
uint64_t shmc_claim_word(shmc *t, uint32_t index);

/* Check (check.c), for tools. Reads alone: takes no lock, writes nothing, not
 * even frequencies, and may be called on a mapping for reading of any bytes.
 */
enum {                          /* what is wrong; named in binding.pyx */
    SHMC_F_STATE,               /* the shard's state is none */
    SHMC_F_QUEUE,               /* an extent is in no queue */
    SHMC_F_FILL,                /* a fill mark that no append can have left */
    SHMC_F_AGE,                 /* an extent older than what was ever opened */
    SHMC_F_OPEN,                /* a queue's open extent is not that queue's */
    SHMC_F_VICTIM,              /* the extent being emptied cannot be */
    SHMC_F_LOG,                 /* bytes in the log that are no record */
    SHMC_F_PAST,                /* a slot of a past generation */
    SHMC_F_OUTSIDE,             /* a slot means a place that nothing was put */
    SHMC_F_RECORD,              /* a slot means where no record begins */
    SHMC_F_SHARD,               /* a record whose key is another shard's */
    SHMC_F_BUCKET,              /* a slot outside its key's two buckets */
    SHMC_F_PRINT,               /* a slot with another key's fingerprint */
    SHMC_F_TWICE,               /* two slots of one record */
    SHMC_F_KEY,                 /* two records of one key */
    SHMC_F_CHAIN,               /* a chain that no store can have made */
    SHMC_F_PIECE,               /* a piece that no store can have made */
    SHMC_F_STAMP,               /* a record of a stamp above the clock */
    SHMC_F_KINDS
};
#define SHMC_FAULTS 32u         /* of a shard told one by one; others counted */
#define SHMC_NOWHERE UINT32_MAX

typedef struct shmc_fault {
    uint32_t kind;
    uint32_t extent, offset;    /* or SHMC_NOWHERE */
    uint32_t slot;              /* of the shard's index, or SHMC_NOWHERE */
} shmc_fault;

/* What a shard's check found. */
typedef struct shmc_report {
    uint64_t found[SHMC_F_KINDS];       /* faults of each kind */
    shmc_fault faults[SHMC_FAULTS];     /* the first of them */
    uint32_t told;              /* how many stand there */
    uint32_t disabled;          /* as shmc_shard's */
    uint32_t orphaned;          /* 1: its lock's holder died */
    uint32_t unsettled;         /* places that writers changed at every look */
    uint32_t drifted;           /* extents booked otherwise than counted: */
    int64_t drift_records;      /* booked less counted */
    int64_t drift_bytes;
    uint64_t records, live_bytes;       /* that slots mean, pieces included */
    uint64_t filled_bytes;      /* below the fill marks */
    uint64_t pieces, chains;
    uint64_t broken_chains;     /* of these, with a piece missing: they miss */
    uint64_t missing_pieces;    /* of those */
    uint64_t orphan_pieces;     /* that no chain names */
    uint64_t ghosts;            /* of the ghost list, expired ones too */
    uint32_t extents[SHMC_QUEUES];      /* by queue */
} shmc_report;

/* What the invalidation clock's words say of each other. All are 0. */
typedef struct shmc_stripes {
    uint64_t above_clock;       /* regions and words that stand above it */
    uint64_t above_top;         /* floors, soft words: readers miss them */
} shmc_stripes;

enum {                          /* what is wrong with the outbox */
    SHMC_O_STATE,               /* its lock's state is none */
    SHMC_O_ENDS,                /* its head and tail cannot be a ring's */
    SHMC_O_ENTRY,               /* between them stands what is no entry */
    SHMC_O_CLOCK,               /* a clock that falls, or is above the clock */
    SHMC_O_LOWEST,              /* `lowest` stands above an unsent entry */
    SHMC_O_KINDS
};

/* What the outbox' check found. */
typedef struct shmc_outbox_report {
    uint64_t found[SHMC_O_KINDS];
    uint32_t disabled;          /* as shmc_outbox' */
    uint32_t orphaned;          /* 1: its lock's holder died */
    uint64_t entries, unsent;   /* sent ones before an unsent one included */
    uint64_t lost;              /* the mark */
} shmc_outbox_report;

/* A record that stands, by its slot. */
typedef struct shmc_listed {
    uint64_t word;              /* of the slot */
    uint64_t hash;              /* of the key */
    uint32_t state;             /* SHMC_FRESH, _STALE, _DEAD */
    uint32_t length;            /* bytes of the whole value */
    shmc_record head;
    shmc_chain chain;           /* where head.kind bears SHMC_CHAINED */
    uint32_t tags[SHMC_TAGS_MAX];
    uint8_t key[SHMC_KEY_MAX];
} shmc_listed;

size_t shmc_check_words(const shmc *t);
void shmc_check(shmc *t, uint32_t shard, uint64_t *starts, shmc_report *out);
void shmc_check_stripes(const shmc *t, shmc_stripes *out);
void shmc_check_outbox(const shmc *t, shmc_outbox_report *out);
int shmc_list(shmc *t, uint32_t shard, uint32_t slot, int64_t now,
              shmc_listed *out);

#endif
