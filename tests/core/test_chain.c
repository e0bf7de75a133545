/* test_chain.c: values in pieces: whole or a miss, and no piece left behind. */
#include "harness.h"

#define LONG (SIZED | 20000u)   /* of a dozen pieces or more */

static uint64_t pieces_of(shmc *t, uint32_t salt)
{
    return shmc_pieces(t, salt & ~SIZED);
}

/* What stands: so many records that are no pieces, and so many that are. */
static void check_stand(shmc *t, uint64_t others, uint64_t pieces)
{
    shmc_report r = check_books(t);

    CHECK(r.pieces == pieces && r.records == others + pieces);
    CHECK(!r.broken_chains && !r.orphan_pieces && !r.drifted);
}

static void test_chain_replaced_or_dropped_leaves_no_piece(void)
{
    shmc t;
    make(&t, MIB);

    CHECK(put_number(&t, 1, LONG) == SHMC_OK && stands(&t, 1));
    check_stand(&t, 1, pieces_of(&t, LONG));
    CHECK(put_number(&t, 1, LONG + 5000) == SHMC_OK && stands(&t, 1));
    check_stand(&t, 1, pieces_of(&t, LONG + 5000));
    CHECK(put_number(&t, 1, 1) == SHMC_OK && stands(&t, 1));
    check_stand(&t, 1, 0);
    CHECK(put_number(&t, 1, LONG) == SHMC_OK && stands(&t, 1));
    CHECK(drop_number(&t, 1) == SHMC_OK && !stands(&t, 1));
    check_stand(&t, 0, 0);
}

static shmc_store chain_store(shmc *t, const uint32_t *key)
{
    return store_of(t, key, LONG);
}

static void test_refused_chain_leaves_no_piece_and_the_old_record(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t key = 1;
    make(&t, MIB);

    CHECK(put_number(&t, key, 3) == SHMC_OK);
    shmc_store s = chain_store(&t, &key);
    s.newer_only = 1;
    s.birth = 0;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OLDER);
    check_stand(&t, 1, 0);
    s = chain_store(&t, &key);
    s.claim = 0;
    s.claim_word = 77;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_LOST);
    check_stand(&t, 1, 0);
    s = chain_store(&t, &key);
    shmc_raise_key(&t, shmc_hash(&t, &key, 4), shmc_number(&t), 0);
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_RAISED);
    check_stand(&t, 1, 0);
    CHECK(stands(&t, key));
}

/* Each of its pieces may have to wait, so who would not is not begun with. */
static void test_chain_is_not_stored_for_who_would_not_wait(void)
{
    shmc t;
    uint64_t stamp;
    uint32_t key = 1;
    make(&t, MIB);

    shmc_store s = chain_store(&t, &key);
    s.wait = 0;
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_BUSY);
    check_stand(&t, 0, 0);
}

/* ---- somebody else, between two steps */

static shmc *shared;
static const char *hooked;
static uint32_t passes_left;    /* of the hooked step, before the hook acts */
static void (*meanwhile)(shmc *t);

static void act_once(const char *at)
{
    shmc t;

    if (strcmp(at, hooked) || --passes_left)
        return;
    on_step = NULL;
    attach(&t, shared->base, shared->g.size);
    meanwhile(&t);
}

static void hook(shmc *t, const char *at, uint32_t nth, void (*what)(shmc *t))
{
    shared = t;
    hooked = at;
    passes_left = nth;
    meanwhile = what;
    on_step = act_once;
}

static void replace_it(shmc *t)
{
    CHECK(put_number(t, 1, LONG + 3000) == SHMC_OK);
}

static void replace_by_a_short_one(shmc *t)
{
    CHECK(put_number(t, 1, 1) == SHMC_OK);
}

static void drop_it(shmc *t)
{
    uint32_t key = 1;
    uint64_t number = shmc_number(t);

    shmc_raise_key(t, shmc_hash(t, &key, 4), number, 0);
    shmc_drop(t, &key, 4, number, 0, 1);
}

/* The key never lacked a value, so its reader finds one. */
static void test_reader_of_a_chain_that_is_replaced_finds_the_new(void)
{
    static const char *const points[] = {
        "look.slot", "look.head", "copy.value"
    };
    void (*const what[])(shmc *) = {replace_it, replace_by_a_short_one};

    for (size_t i = 0; i < 3; i++)
        for (uint32_t nth = 1; nth < 9; nth++)
            for (size_t w = 0; w < 2; w++) {
                shmc t;
                make(&t, MIB);
                CHECK(put_number(&t, 1, LONG) == SHMC_OK);
                hook(&t, points[i], nth, what[w]);
                CHECK(stands(&t, 1) && !on_step);
                unmake(&t);
            }
}

static void test_reader_of_a_chain_that_is_dropped_misses(void)
{
    for (uint32_t nth = 1; nth < 9; nth++) {
        shmc t;
        make(&t, MIB);
        CHECK(put_number(&t, 1, LONG) == SHMC_OK);
        hook(&t, "copy.value", nth, drop_it);
        stands(&t, 1);          /* whole, or a miss: it checks what it reads */
        CHECK(!on_step && !stands(&t, 1));
        check_stand(&t, 0, 0);
        unmake(&t);
    }
}

/* Between two pieces the lock is free: whoever comes there wins or loses as a
 * whole, and the pieces of the loser go.
 */
static void test_stores_between_the_pieces_of_another(void)
{
    for (uint32_t nth = 1; nth < 6; nth++) {
        shmc t;
        make(&t, MIB);
        hook(&t, "chain.piece", nth, replace_it);
        CHECK(put_number(&t, 1, LONG) == SHMC_OK && !on_step);
        CHECK(stands(&t, 1));
        check_stand(&t, 1, pieces_of(&t, LONG));
        hook(&t, "chain.piece", nth, drop_it);
        CHECK(put_number(&t, 1, LONG) == SHMC_RAISED && !on_step);
        CHECK(!stands(&t, 1));
        check_stand(&t, 0, 0);
        unmake(&t);
    }
}

/* ---- a piece that is gone */

/* The slot of a piece, whose key is known. */
static shmc_word *slot_of_piece(shmc *t, const shmc_found *f, uint32_t number)
{
    shmc_piece_key key = {.id = f->chain.id, .number = number};
    shmc_place at, own;
    shmc_found piece;

    shmc_place_of(t, f->hash, &own);
    shmc_place_in(t, shmc_hash(t, &key, sizeof key), own.shard, &at);
    CHECK(shmc_seek(t, &at, &key, sizeof key, SHMC_PIECE, &piece) == SHMC_OK);
    return piece.slot;
}

static void test_missing_piece_is_a_miss(void)
{
    shmc t;
    shmc_found f;
    make(&t, MIB);

    for (uint32_t n = 0; n < pieces_of(&t, LONG); n += 3) {
        CHECK(put_number(&t, 1, LONG) == SHMC_OK);
        CHECK(find_number(&t, 1, &f) == SHMC_OK);
        atomic_store(slot_of_piece(&t, &f, n), 0);
        CHECK(shmc_copy(&t, &f, room_for_value(0)) == SHMC_MISS);
        CHECK(!stands(&t, 1));
    }
    CHECK(put_number(&t, 1, LONG) == SHMC_OK && stands(&t, 1));
}

/* Nobody finds a piece by the bytes of its key, nor a value as a piece. */
static void test_key_that_looks_like_a_piece_is_another(void)
{
    shmc t;
    shmc_found f;
    uint64_t stamp;
    make(&t, MIB);

    CHECK(put_number(&t, 1, LONG) == SHMC_OK);
    CHECK(find_number(&t, 1, &f) == SHMC_OK);
    shmc_piece_key key = {.id = f.chain.id, .number = 2};
    shmc_store s = {.key = &key, .key_len = sizeof key, .value = "mine",
        .value_len = 4, .fresh_until = 9, .dead_at = 9, .claim = SHMC_NO_CLAIM};
    uint64_t hash = shmc_hash(&t, &key, sizeof key);
    CHECK(shmc_find(&t, &key, sizeof key, hash, 1, &f) == SHMC_MISS);
    CHECK(shmc_put(&t, &s, 1, &stamp) == SHMC_OK);
    CHECK(stands(&t, 1));
    CHECK(shmc_find(&t, &key, sizeof key, hash, 1, &f) == SHMC_OK);
    CHECK(shmc_drop(&t, &key, sizeof key, 0, 0, 1) == SHMC_OK);
    CHECK(stands(&t, 1));
    check_stand(&t, 1, pieces_of(&t, LONG));
}

/* A flipped bit lets the last piece, of sixteen bytes, pass for a chain itself:
 * its reader has room for sixteen bytes, not for what it names.
 */
static void test_piece_is_never_a_chain(void)
{
    shmc t;
    shmc_found f;
    make(&t, MIB);
    uint32_t len = 8 * shmc_piece_bytes(&t) + sizeof(shmc_chain);
    char *value = malloc(len);
    CHECK(value);

    CHECK(put_number(&t, 1, SIZED | len) == SHMC_OK);
    CHECK(find_number(&t, 1, &f) == SHMC_OK && f.length == len);
    uint64_t word = atomic_load(slot_of_piece(&t, &f, 8));
    shmc_record *r = (shmc_record *)shmc_at(&t, 0, shmc_word_extent(word),
                                            shmc_word_offset(word));
    CHECK(r->kind == SHMC_PIECE && r->value_len == sizeof(shmc_chain));
    r->kind |= SHMC_CHAINED;
    memcpy((uint8_t *)(r + 1) + r->key_len, &f.chain, sizeof f.chain);
    CHECK(shmc_copy(&t, &f, value) == SHMC_MISS);
    CHECK(drop_number(&t, 1) == SHMC_OK);
    free(value);
}

static const struct test tests[] = {
    TEST(test_chain_replaced_or_dropped_leaves_no_piece),
    TEST(test_refused_chain_leaves_no_piece_and_the_old_record),
    TEST(test_chain_is_not_stored_for_who_would_not_wait),
    TEST(test_reader_of_a_chain_that_is_replaced_finds_the_new),
    TEST(test_reader_of_a_chain_that_is_dropped_misses),
    TEST(test_stores_between_the_pieces_of_another),
    TEST(test_missing_piece_is_a_miss),
    TEST(test_key_that_looks_like_a_piece_is_another),
    TEST(test_piece_is_never_a_chain),
};

MAIN(tests)
