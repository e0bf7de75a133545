/* chain.c: values too large for one record, in pieces.
 *
 * A store appends the pieces first, each under a hold of the shard's lock of its
 * own, then the record that names them, which alone is judged: so a chain is
 * whole before anyone can find it, and no store holds the lock for long. What a
 * killed or a refused store leaves is found by nobody and goes with its
 * extents. Pieces are evicted each by itself; one that is missing makes the
 * value a miss.
 */
#include "inner.h"

/* A chain of more bytes would put out its own first pieces from probation before
 * its last one is stored: it goes to main.
 */
#define PROBATION_EXTENTS 2u

/* The hash that places a piece, in the shard of its chain. */
static shmc_piece_key piece_at(const shmc *t, uint32_t shard, uint64_t id,
                               uint32_t number, shmc_place *at)
{
    shmc_piece_key key = {.id = id, .number = number};

    shmc_place_in(t, shmc_hash(t, &key, sizeof key), shard, at);
    return key;
}

/* Whether a chain is one that a store can have made. */
int shmc_chain_sane(const shmc *t, const shmc_chain *chain)
{
    return chain->length && chain->length <= shmc_value_max(t)
        && chain->piece_bytes == shmc_piece_bytes(t);
}

/* Whether a found record still stands where it was found. If not, its pieces
 * went after it, and the key may have another value by now.
 */
static int stands(const shmc_found *f)
{
    return shmc_word_same(shmc_load_after(f->slot), f->word);
}

static uint32_t shard_of(const shmc *t, const shmc_found *f)
{
    return (uint32_t)((f->value - t->extents)
                      / ((size_t)SHMC_EXTENTS * t->g.extent_bytes));
}

/* Find a piece of a found chain. SHMC_OK, or SHMC_MISS: none that is its own. */
static int find_piece(shmc *t, const shmc_found *f, uint32_t number,
                      shmc_found *out)
{
    uint32_t shard = shard_of(t, f), n = shmc_pieces(t, f->chain.length);
    uint32_t step = f->chain.piece_bytes;
    uint32_t length = number + 1 < n ? step : f->chain.length - number * step;
    shmc_place at;
    shmc_piece_key key = piece_at(t, shard, f->chain.id, number, &at);

    return shmc_seek(t, &at, &key, sizeof key, SHMC_PIECE, out) == SHMC_OK
        && out->head.value_len == length && out->head.nonce == f->head.nonce
        && out->head.birth == f->head.birth ? SHMC_OK : SHMC_MISS;
}

/* Whether all pieces of a found chain stand. */
int shmc_chain_whole(shmc *t, const shmc_found *f)
{
    uint32_t n = shmc_pieces(t, f->chain.length);
    shmc_found piece;

    for (uint32_t i = 0; i < n; i++)
        if (find_piece(t, f, i, &piece) != SHMC_OK)
            return 0;
    return 1;
}

/* Copy the pieces of a found chain. SHMC_OK: whole; SHMC_CHANGED: it was reused
 * or replaced meanwhile; SHMC_MISS: a piece is missing.
 */
int shmc_chain_copy(shmc *t, const shmc_found *f, uint8_t *to)
{
    uint32_t n = shmc_pieces(t, f->chain.length);
    shmc_found piece;

    for (uint32_t i = 0; i < n; i++) {
        if (find_piece(t, f, i, &piece) != SHMC_OK)
            return stands(f) ? SHMC_MISS : SHMC_CHANGED;
        if (shmc_copy(t, &piece, to) != SHMC_OK)
            return SHMC_CHANGED;
        shmc_touch(t, &piece);
        to += piece.head.value_len;
    }
    return SHMC_OK;
}

/* Let all pieces of a chain go. Under the shard's lock. */
void shmc_chain_unlink(shmc *t, uint32_t shard, const shmc_chain *chain)
{
    if (!shmc_chain_sane(t, chain))
        return;
    uint32_t n = shmc_pieces(t, chain->length);
    for (uint32_t i = 0; i < n; i++) {
        shmc_found piece;
        shmc_place at;
        shmc_piece_key key = piece_at(t, shard, chain->id, i, &at);

        if (shmc_seek(t, &at, &key, sizeof key, SHMC_PIECE, &piece) != SHMC_OK)
            continue;
        atomic_exchange_explicit(piece.slot, 0, memory_order_release);
        SHMC_STEP("unlink.slot");
        shmc_forget(t, shard, piece.word);
    }
}

/* Store one piece, under the shard's lock. A number that is yet to be taken will
 * stand above the clock as it is now.
 */
static void store_piece(shmc *t, uint32_t shard, uint32_t queue,
                        const shmc_store *s, uint64_t id, uint32_t number,
                        int64_t now)
{
    uint32_t step = shmc_piece_bytes(t), from = number * step;
    shmc_place at;
    shmc_piece_key key = piece_at(t, shard, id, number, &at);
    shmc_store piece = *s;

    piece.key = &key;
    piece.key_len = sizeof key;
    piece.value = (const uint8_t *)s->value + from;
    piece.value_len = s->value_len - from < step ? s->value_len - from : step;
    piece.kind = SHMC_PIECE;
    piece.ntags = 0;
    shmc_write(t, &at, queue, &piece, s->raise ? shmc_clock(t) : s->stamp, now,
               NULL);
}

/* Name a chain that is to be stored, and choose its queue, unless it would be
 * refused: its pieces would put out others for nothing. Under the shard's lock.
 */
static int begin(shmc *t, const shmc_place *at, const shmc_store *s,
                 uint64_t hash, int64_t now, shmc_chain *chain,
                 uint32_t *queue)
{
    shmc_shard *shard = &t->shards[at->shard];
    shmc_found found;
    int stands = shmc_seek(t, at, s->key, s->key_len, 0, &found) == SHMC_OK;
    int rc = s->raise
        ? shmc_unwelcome(t, s, hash, stands ? &found : NULL, now)
        : shmc_refusal(t, s, hash, stands ? &found : NULL, s->stamp, now);

    if (rc != SHMC_OK)
        return rc;
    SHMC_SET(shard->chains, shard->chains + 1);
    SHMC_STEP("chain.id");
    chain->id = shard->chains;
    chain->length = s->value_len;
    chain->piece_bytes = shmc_piece_bytes(t);
    *queue = shmc_queue_of(t, at, hash, stands ? &found : NULL);
    if (s->value_len > PROBATION_EXTENTS * t->g.extent_bytes
        && *queue == SHMC_Q_PROBATION)
        *queue = SHMC_Q_MAIN;
    return SHMC_OK;
}

/* Store the pieces of a value too large for one record; *chain names them for
 * the record to come. SHMC_OK, or with nothing to be found SHMC_BUSY, _DISABLED,
 * or why the store is refused. *queue is the one they stand in.
 */
int shmc_chain_store(shmc *t, const shmc_place *at, const shmc_store *s,
                     uint64_t hash, int64_t now, shmc_chain *chain,
                     uint32_t *queue)
{
    uint32_t n = shmc_pieces(t, s->value_len);

    for (uint32_t i = 0; i < n; i++) {
        int rc = shmc_lock(t, at->shard, 1);
        if (rc != SHMC_OK)
            return rc;
        if (!i)
            rc = begin(t, at, s, hash, now, chain, queue);
        if (rc == SHMC_OK)
            store_piece(t, at->shard, *queue, s, chain->id, i, now);
        shmc_unlock(t, at->shard);
        if (rc != SHMC_OK)
            return rc;
        SHMC_STEP("chain.piece");
    }
    return SHMC_OK;
}
