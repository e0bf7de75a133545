/* scene.h: what the tests that kill and stop writers put the core through: a
 * segment in a known state, and a list of calls whose outcome is known.
 */
#ifndef SHMC_SCENE_H
#define SHMC_SCENE_H

#include "harness.h"

#define SCENE_KEYS 800u
#define SCENE_CALLS 96u
#define ABSENT 0x7fffffffu      /* in place of a salt */

enum call_kind {
    PUT, SET, DROP, EXPIRE, FLOOR, GAP, GET, CALLS
};

struct call {
    enum call_kind kind;
    uint32_t key, salt;
};

/* A state to begin in, and what is done then. All of it is the same in each
 * run: what stands after a call is known from a run that nobody killed.
 */
struct scene {
    const char *name;
    void (*make)(shmc *t);
    void (*fill)(shmc *t);
    uint32_t (*calls)(struct call *out);
};

static inline void call(shmc *t, const struct call *c)
{
    uint64_t stamp, hash = shmc_hash(t, &c->key, 4);
    uint32_t salt;
    shmc_found f;
    shmc_store s = store_of(t, &c->key, c->salt);

    switch (c->kind) {
    case SET:
        s.raise = 1;
        s.fill_us = 1000;
        /* fall through */
    case PUT:
        CHECK(shmc_put(t, &s, 1, &stamp) == SHMC_OK);
        break;
    case DROP:
        drop_number(t, c->key);
        break;
    case EXPIRE:
        shmc_raise_key(t, hash, shmc_number(t), 1);
        break;
    case FLOOR:
        shmc_raise_floor(t, hash, shmc_number(t));
        break;
    case GAP:                   /* `salt` seconds later, from the last */
        shmc_raise_gap(t, shmc_number(t), (int64_t)c->salt * 1000000000);
        break;
    default:
        if (look_number(t, c->key, &salt, &f) == SHMC_OK)
            shmc_touch(t, &f);
    }
}

/* ---- a segment with room: nothing is evicted */

static inline void make_roomy(shmc *t)
{
    make(t, MIB);
}

static inline void fill_some(shmc *t)
{
    for (uint32_t k = 0; k < 40; k++)
        CHECK(put_number(t, k, k % 8 ? 0 : SIZED | (9000 + k)) == SHMC_OK);
}

static inline uint32_t calls_with_room(struct call *out)
{
    static const struct call calls[] = {
        {PUT, 50, 1}, {PUT, 1, 1}, {GET, 2, 0}, {SET, 3, 2}, {DROP, 4, 0},
        {DROP, 300, 0}, {PUT, 60, SIZED | 12345}, {PUT, 8, SIZED | 7000},
        {PUT, 16, 1}, {DROP, 24, 0}, {GET, 60, 0}, {SET, 61, 0},
        {EXPIRE, 5, 0}, {FLOOR, 6, 0}, {SET, 60, SIZED | 4000}, {PUT, 62, 0},
        {GAP, 0, 1}, {GAP, 0, 2}, {PUT, 63, 0}, {GAP, 0, 9}, {PUT, 64, 0},
    };

    memcpy(out, calls, sizeof calls);
    return sizeof calls / sizeof *calls;
}

/* ---- a full segment: stores empty extents, move and evict their records */

static inline void fill_up(shmc *t)
{
    for (uint32_t k = 0; k < 2000; k++) {
        CHECK(put_number(t, k % SCENE_KEYS, 0) == SHMC_OK);
        if (k % 3 == 0)
            get_number(t, k % SCENE_KEYS);
    }
    CHECK(t->counters[SHMC_C_EVICTED] > 0);
}

static inline uint32_t calls_when_full(struct call *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; n < 70; i++) {
        if (i % 7 == 3)
            out[n++] = (struct call){PUT, i * 5 % SCENE_KEYS,
                                     SIZED | (2000 + i)};
        else if (i % 5 == 4)
            out[n++] = (struct call){GET, i * 17 % SCENE_KEYS, 0};
        else if (i % 11 == 10)
            out[n++] = (struct call){DROP, i * 29 % SCENE_KEYS, 0};
        else
            out[n++] = (struct call){i % 2 ? PUT : SET, i * 61 % SCENE_KEYS,
                                     i + 1};
    }
    return n;
}

static const struct scene with_room = {
    "room", make_roomy, fill_some, calls_with_room
};
static const struct scene when_full = {
    "full", make_small, fill_up, calls_when_full
};

/* ---- a scene that was set up, and may be run again and again */

struct stage {
    const struct scene *scene;
    shmc t;
    struct call calls[SCENE_CALLS];
    uint32_t n;
    char *before;               /* the segment's bytes as the calls begin */
    uint32_t passes[128];       /* of each failpoint, in a run to the end */
    uint32_t after[SCENE_CALLS + 1][SCENE_KEYS];        /* salts that stand */
    _Atomic uint32_t *at;       /* the call under way, shared with children */
};

static inline void note_what_stands(shmc *t, uint32_t *out)
{
    shmc_found f;

    for (uint32_t k = 0; k < SCENE_KEYS; k++)
        if (look_number(t, k, &out[k], &f) != SHMC_OK)
            out[k] = ABSENT;
}

/* Put the segment into the state that the scene begins in. */
static inline void rewind_stage(struct stage *g)
{
    memcpy(g->t.base, g->before, g->t.g.size);
    memset(g->t.try_until, 0, sizeof g->t.try_until);
    memset(g->t.scratch, 0, sizeof g->t.scratch);
}

/* The stage that children, forked from here, act on. */
static struct stage *stage;

static inline void act(shmc *t)
{
    for (uint32_t i = *stage->at; i < stage->n; i++) {
        *stage->at = i;
        call(t, &stage->calls[i]);
    }
}

/* Set a scene up, and see what it does when nobody is killed. */
static inline void set_stage(struct stage *g, const struct scene *scene)
{
    shmc run;

    CHECK(failpoint_count <= 128);
    memset(g, 0, sizeof *g);
    g->scene = scene;
    scene->make(&g->t);
    scene->fill(&g->t);
    g->n = scene->calls(g->calls);
    CHECK(g->n <= SCENE_CALLS);
    g->before = malloc(g->t.g.size);
    CHECK(g->before);
    memcpy(g->before, g->t.base, g->t.g.size);
    g->at = map_segment(SHMC_PAGE);
    attach(&run, g->t.base, g->t.g.size);
    note_what_stands(&g->t, g->after[0]);
    failpoint_count_passes();
    for (uint32_t i = 0; i < g->n; i++)
        call(&run, &g->calls[i]);
    for (size_t p = 0; p < failpoint_count; p++)
        g->passes[p] = failpoint_passes(p);
    failpoint_disarm();
    rewind_stage(g);
    attach(&run, g->t.base, g->t.g.size);
    for (uint32_t i = 0; i < g->n; i++) {
        call(&run, &g->calls[i]);
        note_what_stands(&g->t, g->after[i + 1]);
    }
    rewind_stage(g);
    stage = g;
}

static inline void strike_stage(struct stage *g)
{
    unmake(&g->t);
    unmap_segment((void *)g->at, SHMC_PAGE);
    free(g->before);
    stage = NULL;
}

#endif
