/* test_claims.c: rivals for one claim, at the very steps where they meet. */
#include "harness.h"

static shmc *shared;

static void with_slots(shmc *t)
{
    for (uint32_t i = 0; i < SHMC_SLOTS; i++)
        atomic_store(&t->slots[i].incarnation, 1);
}

static void claim_one(shmc *t)
{
    uint32_t index;
    uint64_t word, wake = 0;

    if (shmc_claim_take(t, 99, 1, &index, &word, &wake) == SHMC_OK)
        shmc_claim_free(t, index, word, SHMC_FREED_STORED, &wake);
}

/* A claim word by hand, as the process of that slot would have written it. */
static uint64_t claim_word(uint64_t hash20, uint32_t slot, uint32_t state)
{
    return hash20 << 44 | 7ull << 24 | 1ull << 12 | (uint64_t)slot << 3 | state;
}

static uint32_t rival_at;       /* entry where a rival appears ... */
static uint32_t rival_state;    /* ... in this state */

/* A rival that had found the set empty as well writes its word. */
static void rival(const char *at)
{
    if (strcmp(at, "claim.standing"))
        return;
    on_step = NULL;
    atomic_store(&shared->claims[rival_at].word, claim_word(3, 5, rival_state));
    atomic_store(&shared->claims[rival_at].waiters, 1ull << 40);
}

/* Take key 3, whose search for an entry begins at entry 3, against a rival. */
static int take_against(shmc *t, uint32_t at, uint32_t state, uint64_t *word,
                        uint64_t *wake)
{
    uint32_t index;

    make(t, MIB);
    with_slots(t);
    shared = t;
    rival_at = at;
    rival_state = state;
    on_step = rival;
    *wake = 0;
    return shmc_claim_take(t, 3ull << 44, 2, &index, word, wake);
}

static void test_rivals_settle_by_the_rules(void)
{
    shmc t;
    uint64_t word, wake;

    /* higher and tentative: voided, and who waited on it is to be woken */
    CHECK(take_against(&t, 6, SHMC_TENTATIVE, &word, &wake) == SHMC_OK);
    CHECK(shmc_claim_word(&t, 6) == claim_word(3, 5, SHMC_FREED));
    CHECK(wake == 1ull << 40 && shmc_claim_word(&t, 3) == word);
    /* held, or lower and tentative: we withdraw */
    for (uint32_t at = 1; at < 8; at += 5) {
        uint32_t state = at < 3 ? SHMC_TENTATIVE : SHMC_HELD;
        CHECK(take_against(&t, at, state, &word, &wake) == SHMC_HELD);
        CHECK(word == claim_word(3, 5, state) && wake == 0);
        CHECK((shmc_claim_word(&t, 3) & 7) == SHMC_FREED);
    }
}

/* Void the claim under the taker's feet, once. */
static void void_ours(const char *at)
{
    if (strcmp(at, "claim.look"))
        return;
    on_step = NULL;
    atomic_fetch_and(&shared->claims[3].word, ~7ull);
}

static void test_voided_taker_starts_over(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0;

    shared = &t;
    on_step = void_ours;
    CHECK(shmc_claim_take(&t, 3ull << 44, 2, &index, &word, &wake) == SHMC_OK);
    CHECK(index == 3 && (word >> 24 & 0xfffff) == 2);   /* taken twice */
}

static void test_tentative_claim_taken_over_gives_way_to_the_held(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint64_t word, wake = 0, dead = claim_word(3, 5, SHMC_TENTATIVE);

    atomic_store(&t.claims[2].word, claim_word(3, 4, SHMC_HELD));
    atomic_store(&t.claims[5].word, dead);
    CHECK(shmc_claim_over(&t, 5, dead, 2, &word, &wake) == SHMC_LOST);
    CHECK((shmc_claim_word(&t, 5) & 7) == SHMC_FREED);
    atomic_store(&t.claims[2].word, 0);
    atomic_store(&t.claims[5].word, dead);
    CHECK(shmc_claim_over(&t, 5, dead, 2, &word, &wake) == SHMC_OK);
    CHECK((word & 7) == SHMC_HELD && shmc_claim_word(&t, 5) == word);
}

/* Whatever a killed taker leaves is free, or can be taken over by one call. */
static void take_what_was_left(shmc *t)
{
    uint32_t index;
    uint64_t word, wake = 0;
    int rc = shmc_claim_take(t, 99, 2, &index, &word, &wake);

    if (rc == SHMC_HELD) {
        CHECK((word >> 3 & 0x1ff) == 1);
        rc = shmc_claim_over(t, index, word, 2, &word, &wake);
    }
    CHECK(rc == SHMC_OK);
    CHECK(shmc_claim_free(t, index, word, SHMC_FREED, &wake) == SHMC_OK);
}

static void test_taker_killed_at_any_step_leaves_a_claim_to_take(void)
{
    static const char *const points[] = {
        "claim.standing", "claim.changed", "claim.look"
    };
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t deaths = 0;

    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        for (uint32_t n = 1; dies_at(&t, points[i], n, claim_one); n++) {
            take_what_was_left(&t);
            deaths++;
        }
    CHECK(deaths >= 1 + 3 + SHMC_CLAIM_WAYS);
}

static uint32_t noted_index;
static uint64_t noted_word;

static void note_anew(shmc *t)
{
    static const uint64_t token[2] = {7, 8};

    CHECK(shmc_claim_note(t, noted_index, noted_word, 5, 6, token) == SHMC_OK);
}

/* Half a note over a whole one binds to nothing: the claim counts as new. */
static void test_holder_killed_in_its_note_leaves_none(void)
{
    static const char *const points[] = {
        "note.stamp", "note.deadline", "note.token", "note.tokens"
    };
    static const uint64_t first[2] = {1, 2};
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint64_t wake = 0, stamp, token[2];
    int64_t deadline;

    CHECK(shmc_claim_take(&t, 99, 1, &noted_index, &noted_word, &wake)
          == SHMC_OK);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        CHECK(shmc_claim_note(&t, noted_index, noted_word, 3, 4, first)
              == SHMC_OK);
        CHECK(dies_at(&t, points[i], 1, note_anew));
        CHECK(shmc_claim_noted(&t, noted_index, noted_word, &stamp, &deadline,
                               token) == SHMC_MISS);
        CHECK(!shmc_claim_void(&t, noted_index, noted_word, 99));
    }
    note_anew(&t);
    CHECK(shmc_claim_noted(&t, noted_index, noted_word, &stamp, &deadline,
                           token) == SHMC_OK);
    CHECK(stamp == 5 && deadline == 6 && token[0] == 7 && token[1] == 8);
}

/* Claim the key of the first set whose 20 bits are `hash20`. */
static int take(shmc *t, uint64_t hash20, uint32_t slot, uint32_t *index,
                uint64_t *word, uint64_t *wake)
{
    return shmc_claim_take(t, hash20 << 44, slot, index, word, wake);
}

static void test_full_set_takes_only_claims_of_slots_taken_anew(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0, first = 0;

    for (uint64_t k = 0; k < SHMC_CLAIM_WAYS; k++) {
        CHECK(take(&t, k, (uint32_t)k, &index, &word, &wake) == SHMC_OK);
        first = k == 3 ? word : first;
    }
    CHECK(take(&t, 9, 9, &index, &word, &wake) == SHMC_FULL);
    CHECK(index == SHMC_NO_CLAIM && t.counters[SHMC_C_CLAIMS_FULL] == 1);
    CHECK(take(&t, 3, 9, &index, &word, &wake) == SHMC_HELD);
    CHECK(shmc_claim_wait(&t, index, word, 17) == SHMC_OK);
    atomic_fetch_add(&t.slots[3].incarnation, 1);
    CHECK(take(&t, 9, 9, &index, &word, &wake) == SHMC_OK);
    CHECK(wake == 1ull << 17);  /* who waited on the dead one's claim */
    CHECK(shmc_claim_free(&t, index, first, SHMC_FREED, &wake) == SHMC_LOST);
}

/* ---- who is to be woken */

static uint32_t waits_at;       /* entry where somebody waits at the next look */

static void wait_there(const char *at)
{
    if (strcmp(at, "claim.look"))
        return;
    on_step = NULL;
    atomic_fetch_or(&shared->claims[waits_at].waiters, 1ull << 21);
}

/* Whatever it is: each change of a word takes those who wait on it. */
static void test_every_change_of_a_word_takes_its_waiters(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, wake = 0;

    shared = &t;
    waits_at = 3;
    on_step = wait_there;
    atomic_store(&t.claims[3].waiters, 1ull << 20);
    CHECK(take(&t, 3, 2, &index, &word, &wake) == SHMC_OK && index == 3);
    CHECK(wake == (1ull << 20 | 1ull << 21));   /* tentative; then held */
    wake = 0;
    CHECK(shmc_claim_wait(&t, 3, word, 22) == SHMC_OK);
    CHECK(shmc_claim_over(&t, 3, word, 4, &word, &wake) == SHMC_OK);
    CHECK(wake == 1ull << 22 && !atomic_load(&t.claims[3].waiters));
    wake = 0;
    CHECK(shmc_claim_wait(&t, 3, word, 23) == SHMC_OK);
    CHECK(shmc_claim_free(&t, 3, word, SHMC_FREED_PASS, &wake) == SHMC_OK);
    CHECK(wake == 1ull << 23 && !atomic_load(&t.claims[3].waiters));
    wake = 0;                   /* withdrawn for a held one */
    atomic_store(&t.claims[2].word, claim_word(3, 4, SHMC_HELD));
    uint64_t dead = claim_word(3, 5, SHMC_TENTATIVE);
    atomic_store(&t.claims[5].word, dead);
    waits_at = 5;
    on_step = wait_there;
    CHECK(shmc_claim_over(&t, 5, dead, 2, &word, &wake) == SHMC_LOST);
    CHECK(wake == 1ull << 21 && !atomic_load(&t.claims[5].waiters));
}

/* A claim that changed is not waited on, by whichever step it did. */
static void test_waiter_that_comes_too_late_does_not_park(void)
{
    shmc t;
    make(&t, MIB);
    with_slots(&t);
    uint32_t index;
    uint64_t word, then, wake = 0;

    CHECK(take(&t, 3, 2, &index, &word, &wake) == SHMC_OK);
    CHECK(shmc_claim_over(&t, index, word, 4, &then, &wake) == SHMC_OK);
    CHECK(shmc_claim_wait(&t, index, word, 20) == SHMC_LOST);
    CHECK(shmc_claim_wait(&t, index, word, 100) == SHMC_LOST);
    CHECK(shmc_claim_free(&t, index, then, SHMC_FREED, &wake) == SHMC_OK);
    CHECK(wake == 1ull << 20);  /* its bit costs a needless look */
    CHECK(shmc_claim_wait(&t, index, then, 20) == SHMC_LOST);
}

static const struct test tests[] = {
    TEST(test_every_change_of_a_word_takes_its_waiters),
    TEST(test_waiter_that_comes_too_late_does_not_park),
    TEST(test_rivals_settle_by_the_rules),
    TEST(test_voided_taker_starts_over),
    TEST(test_tentative_claim_taken_over_gives_way_to_the_held),
    TEST(test_taker_killed_at_any_step_leaves_a_claim_to_take),
    TEST(test_holder_killed_in_its_note_leaves_none),
    TEST(test_full_set_takes_only_claims_of_slots_taken_anew),
};

MAIN(tests)
