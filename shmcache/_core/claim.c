/* claim.c: who on this host computes a key, and who waits for it.
 *
 * Two processes that want one key may take different claims of its set at the
 * same moment, so a claim is taken in two steps. A taker writes a *tentative*
 * word, then looks at the whole set: a held claim of the key, or a lower
 * tentative one, and it withdraws; a higher tentative one it voids by CAS;
 * then it confirms by CAS, which fails if somebody voided it. "The lowest
 * entry wins" alone gives two holders:
 * 1. A is tentative at 5, finds nothing below, and sleeps before it says held
 * 2. B takes 2, finds A above, and as the lower one is held
 * 3. A wakes and is held too
 *
 * Here B voids A's word first, and A's confirming CAS fails.
 *
 * Whoever changes a word takes the bitmap of waiters, whom the caller must
 * wake.
 */
#include "inner.h"
#include "hash.h"

#define ROUNDS 64               /* then the set counts as full */
#define LOST_ROUND 1            /* voided, or the entry went: start over */

static uint32_t state_of(uint64_t w) { return w & 7; }
static uint32_t slot_of(uint64_t w) { return w >> 3 & 0x1ff; }
static uint64_t incarnation_of(uint64_t w) { return w >> 12 & 0xfff; }
static uint64_t sequence_of(uint64_t w) { return w >> 24 & 0xfffff; }
static uint64_t hash_of(uint64_t w) { return w >> 44; }

static int taken(uint64_t w)
{
    return state_of(w) == SHMC_TENTATIVE || state_of(w) == SHMC_HELD;
}

static uint64_t with_state(uint64_t w, uint32_t state)
{
    return (w & ~7ull) | state;
}

/* The word a process in `slot` writes over `old` to claim a key. */
static uint64_t next_word(const shmc *t, uint64_t old, uint64_t hash20,
                          uint32_t slot, uint32_t state)
{
    uint64_t incarnation = atomic_load(&t->slots[slot].incarnation) & 0xfff;

    return hash20 << 44 | ((sequence_of(old) + 1) & 0xfffff) << 24
        | incarnation << 12 | (uint64_t)slot << 3 | state;
}

/* Change a word, and take whom to wake. Nonzero if it was changed. */
static int change(shmc_claim *c, uint64_t from, uint64_t to, uint64_t *wake)
{
    if (!atomic_compare_exchange_strong(&c->word, &from, to))
        return 0;
    SHMC_STEP("claim.changed");
    *wake |= atomic_exchange(&c->waiters, 0);
    return 1;
}

/* First entry of the key's set. */
static uint32_t set_of(const shmc *t, uint64_t hash)
{
    return ((uint32_t)hash & (t->g.claim_sets - 1)) * SHMC_CLAIM_WAYS;
}

/* The entry that has the key: held rather than tentative. SHMC_HELD, or
 * SHMC_MISS.
 */
static int standing(shmc *t, uint32_t set, uint64_t hash20, uint32_t *index,
                    uint64_t *word)
{
    int found = SHMC_MISS;

    for (uint32_t i = set; i < set + SHMC_CLAIM_WAYS; i++) {
        uint64_t w = atomic_load(&t->claims[i].word);
        if (!taken(w) || hash_of(w) != hash20
            || (found == SHMC_HELD && state_of(w) != SHMC_HELD))
            continue;
        found = SHMC_HELD;
        *index = i;
        *word = w;
        if (state_of(w) == SHMC_HELD)
            break;
    }
    return found;
}

/* An entry to take: a freed one, searched from a place of the key's own so
 * that how a claim ended stands a while; else one whose owner's slot has been
 * taken anew, which proves the owner dead. SHMC_NO_CLAIM if there is none.
 */
static uint32_t vacant(shmc *t, uint32_t set, uint64_t hash20, uint64_t *word)
{
    uint32_t dead = SHMC_NO_CLAIM;
    uint64_t dead_word = 0;

    for (uint32_t n = 0; n < SHMC_CLAIM_WAYS; n++) {
        uint32_t i = set + (uint32_t)(hash20 + n) % SHMC_CLAIM_WAYS;
        uint64_t w = atomic_load(&t->claims[i].word);
        if (!taken(w)) {
            *word = w;
            return i;
        }
        if (dead == SHMC_NO_CLAIM && slot_of(w) < SHMC_SLOTS
            && (atomic_load(&t->slots[slot_of(w)].incarnation) & 0xfff)
                != incarnation_of(w)) {
            dead = i;
            dead_word = w;
        }
    }
    *word = dead_word;
    return dead;
}

/* Settle with entry `j` of the set for the tentative claim `mine` at `i`.
 * SHMC_OK: it is no rival (any more); SHMC_HELD: it wins, we have withdrawn,
 * *index and *word say who.
 */
static int settle_with(shmc *t, uint32_t i, uint64_t mine, uint32_t j,
                       uint32_t *index, uint64_t *word, uint64_t *wake)
{
    for (;;) {
        uint64_t w = atomic_load(&t->claims[j].word);
        if (!taken(w) || hash_of(w) != hash_of(mine))
            return SHMC_OK;
        if (state_of(w) == SHMC_TENTATIVE && j > i) {
            if (change(&t->claims[j], w, with_state(w, SHMC_FREED), wake))
                return SHMC_OK;
            continue;           /* it moved on: perhaps it is held now */
        }
        change(&t->claims[i], mine, with_state(mine, SHMC_FREED), wake);
        *index = j;
        *word = w;
        return SHMC_HELD;
    }
}

/* Confirm the tentative claim `mine` at `i`, once the whole set has been
 * looked at again. SHMC_OK, SHMC_HELD (withdrawn), LOST_ROUND (voided).
 */
static int settle(shmc *t, uint32_t i, uint64_t mine, uint32_t *index,
                  uint64_t *word, uint64_t *wake)
{
    uint32_t set = i - i % SHMC_CLAIM_WAYS;

    for (uint32_t j = set; j < set + SHMC_CLAIM_WAYS; j++) {
        SHMC_STEP("claim.look");
        if (j != i
            && settle_with(t, i, mine, j, index, word, wake) == SHMC_HELD)
            return SHMC_HELD;
    }
    if (!change(&t->claims[i], mine, with_state(mine, SHMC_HELD), wake))
        return LOST_ROUND;
    *index = i;
    *word = with_state(mine, SHMC_HELD);
    return SHMC_OK;
}

/* Claim a key for the process in `slot`. SHMC_OK: *index and *word are ours;
 * SHMC_HELD: the key's claim is theirs (or, by an earlier call, our own),
 * *word is what to wait on; SHMC_FULL: nothing was taken, the lease alone
 * decides. Never waits.
 */
int shmc_claim_take(shmc *t, uint64_t hash, uint32_t slot, uint32_t *index,
                    uint64_t *word, uint64_t *wake)
{
    uint64_t hash20 = hash >> 44, old;
    uint32_t set = set_of(t, hash);

    for (int round = 0; round < ROUNDS; round++) {
        if (standing(t, set, hash20, index, word) == SHMC_HELD)
            return SHMC_HELD;
        SHMC_STEP("claim.standing");
        uint32_t i = vacant(t, set, hash20, &old);
        if (i == SHMC_NO_CLAIM)
            break;
        uint64_t mine = next_word(t, old, hash20, slot, SHMC_TENTATIVE);
        if (!change(&t->claims[i], old, mine, wake))
            continue;
        int rc = settle(t, i, mine, index, word, wake);
        if (rc != LOST_ROUND)
            return rc;
    }
    shmc_count(t, SHMC_C_CLAIMS_FULL, 1);
    *index = SHMC_NO_CLAIM;
    *word = 0;
    return SHMC_FULL;
}

/* Take over a claim that bears `seen`, whose owner is dead or overdue or which
 * is void. SHMC_OK: *word is ours; SHMC_LOST: it has moved on, *word is how it
 * stands.
 *
 * A held claim is the only one of its key, and stays so by one CAS. A
 * tentative one is not, so it is made ours as tentative and settled like any
 * other:
 * 1. A finds 2 and 5 empty and takes 2; D takes 5, and dies before it looks
 * 2. A looked at 5 before D came, and is held
 * 3. B takes over D's word straight to held: two holders
 */
int shmc_claim_over(shmc *t, uint32_t index, uint64_t seen, uint32_t slot,
                    uint64_t *word, uint64_t *wake)
{
    shmc_claim *c = &t->claims[index];
    uint32_t at;

    if (taken(seen)) {
        uint64_t mine = next_word(t, seen, hash_of(seen), slot, state_of(seen));
        if (change(c, seen, mine, wake)) {
            *word = mine;
            if (state_of(mine) == SHMC_HELD
                || settle(t, index, mine, &at, word, wake) == SHMC_OK)
                return SHMC_OK;
        }
    }
    *word = atomic_load(&c->word);
    return SHMC_LOST;
}

/* Free a claim that bears `word`, saying how it ended (SHMC_FREED...). SHMC_OK
 * or SHMC_LOST.
 */
int shmc_claim_free(shmc *t, uint32_t index, uint64_t word, uint32_t state,
                    uint64_t *wake)
{
    if (change(&t->claims[index], word, with_state(word, state), wake))
        return SHMC_OK;
    return SHMC_LOST;
}

/* What binds a note's fields to each other and to the word they were noted
 * under. A holder notes again under the same word, and a holder that was
 * stopped and superseded may still be writing: an equal word alone would let a
 * reader believe half of one note and half of another.
 */
static uint64_t bind(uint64_t word, uint64_t stamp, int64_t deadline,
                     const uint64_t token[2])
{
    static const uint64_t seed[2] = {0, 0};
    const uint64_t all[5] = {
        word, stamp, (uint64_t)deadline, token[0], token[1]
    };

    return shmc_siphash(seed, all, sizeof all);
}

/* Note beside a claim what its compute began under. SHMC_OK, or SHMC_LOST when
 * the claim is no longer ours (then what was noted binds to nothing).
 */
int shmc_claim_note(shmc *t, uint32_t index, uint64_t word, uint64_t stamp,
                    int64_t deadline, const uint64_t token[2])
{
    shmc_claim *c = &t->claims[index];

    if (atomic_load(&c->word) != word)
        return SHMC_LOST;
    atomic_store_explicit(&c->stamp, stamp, memory_order_relaxed);
    SHMC_STEP("note.stamp");
    atomic_store_explicit(&c->deadline, deadline, memory_order_relaxed);
    SHMC_STEP("note.deadline");
    atomic_store_explicit(&c->token[0], token[0], memory_order_relaxed);
    SHMC_STEP("note.token");
    atomic_store_explicit(&c->token[1], token[1], memory_order_relaxed);
    SHMC_STEP("note.tokens");
    atomic_store_explicit(&c->noted, bind(word, stamp, deadline, token),
                          memory_order_release);
    return atomic_load(&c->word) == word ? SHMC_OK : SHMC_LOST;
}

/* What was noted under this very word. SHMC_OK, or SHMC_MISS: nothing yet, and
 * the claim is new and valid.
 */
int shmc_claim_noted(shmc *t, uint32_t index, uint64_t word, uint64_t *stamp,
                     int64_t *deadline, uint64_t token[2])
{
    shmc_claim *c = &t->claims[index];
    uint64_t noted = shmc_load(&c->noted);

    *stamp = shmc_load(&c->stamp);
    *deadline = atomic_load_explicit(&c->deadline, memory_order_acquire);
    token[0] = shmc_load(&c->token[0]);
    token[1] = shmc_load(&c->token[1]);
    return noted == bind(word, *stamp, *deadline, token) ? SHMC_OK : SHMC_MISS;
}

/* Whether a claim is void: noted under this word with a stamp that lies under
 * the key's stripe, or under the clear word, so that its value would be refused.
 * 1 or 0.
 */
int shmc_claim_void(shmc *t, uint32_t index, uint64_t word, uint64_t hash)
{
    uint64_t stamp, token[2];
    int64_t deadline;

    return shmc_claim_noted(t, index, word, &stamp, &deadline, token) == SHMC_OK
        && stamp < shmc_highest(t, hash, NULL, 0, 0);
}

/* Join a claim's waiters. SHMC_OK: it still bears `word`, so whoever changes
 * it will see our bit: park. SHMC_LOST: it changed, look again. Slots from 64
 * on have no bit and poll.
 */
int shmc_claim_wait(shmc *t, uint32_t index, uint64_t word, uint32_t slot)
{
    shmc_claim *c = &t->claims[index];

    if (slot < 64)
        atomic_fetch_or(&c->waiters, 1ull << slot);
    return atomic_load(&c->word) == word ? SHMC_OK : SHMC_LOST;
}

uint64_t shmc_claim_word(shmc *t, uint32_t index)
{
    return atomic_load(&t->claims[index].word);
}
