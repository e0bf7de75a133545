/* failpoint.c: kills, stops, delays and failures at the core's steps. */
#define _GNU_SOURCE
#include "failpoint.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ARMED_MAX 8
#define SLEEP_MS 100

const struct failpoint failpoints[] = {
    {"put.locked", IN_SHARD, 0},
    {"admit.number", IN_SHARD, 0},
    {"admit.raised", IN_SHARD, 0},
    {"put.queue", IN_SHARD, 0},
    {"store.head", IN_SHARD, 0},
    {"store.bytes", IN_SHARD, 0},
    {"store.fill", IN_SHARD, 0},
    {"publish.slot", IN_SHARD, 0},
    {"store.slot", IN_SHARD, 0},
    {"keep.bytes", IN_SHARD, 0},
    {"book.bytes", IN_SHARD, 0},
    {"forget.mark", IN_SHARD, 0},
    {"put.done", IN_SHARD, 0},
    {"put.unlocked", IN_WORDS, 0},
    {"drop.locked", IN_SHARD, 0},
    {"remove.slot", IN_SHARD, 0},
    {"drop.done", IN_SHARD, 0},
    {"open.opened", IN_SHARD, 0},
    {"open.age", IN_SHARD, 0},
    {"open.fill", IN_SHARD, 0},
    {"open.queue", IN_SHARD, 0},
    {"open.rest", IN_SHARD, 0},
    {"choose.free", IN_SHARD, 0},
    {"close.open", IN_SHARD, 0},
    {"choose.open", IN_SHARD, 0},
    {"choose.cursor", IN_SHARD, 0},
    {"choose.sparse", IN_SHARD, 0},
    {"choose", IN_SHARD, 0},
    {"move.bytes", IN_SHARD, 0},
    {"move.fill", IN_SHARD, 0},
    {"move.slot", IN_SHARD, 0},
    {"move.gone", IN_SHARD, 0},
    {"move.kept", IN_SHARD, 0},
    {"move.moved", IN_SHARD, 0},
    {"ghost.add", IN_SHARD, 0},
    {"ghost.take", IN_SHARD, 0},
    {"empty.ghost", IN_SHARD, 0},
    {"empty.clock", IN_SHARD, 0},
    {"empty.slot", IN_SHARD, 0},
    {"empty.booked", IN_SHARD, 0},
    {"empty.cursor", IN_SHARD, 0},
    {"empty.survival", IN_SHARD, 0},
    {"empty.done", IN_SHARD, 0},
    {"empty.generation", IN_SHARD, 0},
    {"reset.open", IN_SHARD, 0},
    {"reset.queue", IN_SHARD, 0},
    {"reset.fill", IN_SHARD, 0},
    {"reset.bytes", IN_SHARD, 0},
    {"chain.id", IN_SHARD, 0},
    {"chain.piece", IN_WORDS, 0},
    {"unlink.slot", IN_SHARD, 0},
    {"look.slot", IN_READ, 0},
    {"look.head", IN_READ, 0},
    {"copy.value", IN_READ, 0},
    {"touch.freq", IN_WORDS, 0},
    {"raise.top", IN_WORDS, 0},
    {"gap.clear", IN_WORDS, 0},
    {"gap.at", IN_WORDS, 0},
    {"claim.changed", IN_WORDS, 0},
    {"claim.look", IN_WORDS, 0},
    {"claim.standing", IN_WORDS, 0},
    {"note.stamp", IN_WORDS, 0},
    {"note.deadline", IN_WORDS, 0},
    {"note.token", IN_WORDS, 0},
    {"note.tokens", IN_WORDS, 0},
    {"outbox.locked", IN_OUTBOX, 0},
    {"outbox.head", IN_OUTBOX, 0},
    {"outbox.lowest", IN_OUTBOX, 0},
    {"outbox.lowered", IN_OUTBOX, 0},
    {"outbox.name", IN_OUTBOX, 0},
    {"outbox.kind", IN_OUTBOX, 0},
    {"outbox.at", IN_OUTBOX, 0},
    {"outbox.clock", IN_OUTBOX, 0},
    {"outbox.begins", IN_OUTBOX, 0},
    {"outbox.added", IN_OUTBOX, 0},
    {"outbox.unlocked", IN_OUTBOX, 0},
    {"outbox.losing", IN_OUTBOX, 0},
    {"outbox.lost", IN_OUTBOX, 0},
    {"outbox.sent", IN_OUTBOX, 0},
    {"outbox.read", IN_OUTBOX, 0},
    {"outbox.tidy", IN_OUTBOX, 0},
    {"outbox.reset", IN_OUTBOX, 0},
    {"outbox.recover", IN_OUTBOX, 0},
    {"outbox.consistent", IN_OUTBOX, 1},
    {"outbox.recovered", IN_OUTBOX, 0},
    {"outbox.disabled", IN_OUTBOX, 0},
    {"recover", IN_RECOVERY, 0},
    {"recover.checked", IN_RECOVERY, 0},
    {"recover.consistent", IN_RECOVERY, 1},
    {"recover.done", IN_RECOVERY, 0},
    {"wipe.mark", IN_RECOVERY, 0},
    {"clear.word", IN_RECOVERY, 0},
    {"wipe.index", IN_RECOVERY, 0},
    {"wipe.victim", IN_RECOVERY, 0},
    {"wipe.generation", IN_RECOVERY, 0},
    {"wipe.reset", IN_RECOVERY, 0},
    {"wipe.done", IN_RECOVERY, 0},
    {"disable.index", IN_RECOVERY, 0},
    {"disable.generations", IN_RECOVERY, 0},
    {"init.magic", IN_INIT, 0},
    {"init.header", IN_INIT, 0},
    {"init.region", IN_INIT, 0},
    {"init.regions", IN_INIT, 0},
    {"init.generations", IN_INIT, 0},
    {"init.heads", IN_INIT, 0},
    {"init.shard", IN_INIT, 1},
    {"init.shards", IN_INIT, 0},
    {"init.outbox", IN_INIT, 0},
    {"init.ready", IN_INIT, 0},
    {"attach.checked", IN_INIT, 0},
};
#define COUNT (sizeof failpoints / sizeof *failpoints)
const size_t failpoint_count = COUNT;

static const char *const actions[] = {"kill", "stop", "sleep", "err"};

struct armed {
    size_t index;
    enum failpoint_action action;
    _Atomic uint32_t left;      /* passes until it fires; 0: it has */
    uint32_t ms;
};

step_hook on_step;
static struct armed armed[ARMED_MAX];
static uint32_t in_use;         /* of them */
static int counting;
static _Atomic uint32_t passes[COUNT + 1];     /* one more: of no known name */

size_t failpoint_index(const char *name)
{
    size_t i = 0;

    while (i < COUNT && strcmp(failpoints[i].name, name))
        i++;
    return i;
}

static void sleep_ms(uint32_t ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000l};

    nanosleep(&ts, NULL);
}

/* Do what is armed at a point. Nonzero: its call is to fail. */
static int fire(const struct armed *a)
{
    switch (a->action) {
    case FAILPOINT_KILL:
        kill(getpid(), SIGKILL);
        for (;;)                /* it may come a moment later */
            pause();
    case FAILPOINT_STOP:
        raise(SIGSTOP);
        return 0;
    case FAILPOINT_SLEEP:
        sleep_ms(a->ms);
        return 0;
    default:
        return 1;
    }
}

/* A step of the core. Nonzero where it is to fail. */
int shmc_step(const char *at)
{
    int failed = 0;

    if (on_step)
        on_step(at);
    if (counting)
        atomic_fetch_add(&passes[failpoint_index(at)], 1);
    for (uint32_t i = 0; i < in_use; i++) {
        struct armed *a = &armed[i];
        if (!atomic_load_explicit(&a->left, memory_order_relaxed)
            || strcmp(failpoints[a->index].name, at))
            continue;
        if (atomic_fetch_sub(&a->left, 1) == 1)
            failed |= fire(a);
    }
    return failed;
}

__attribute__((noreturn, format(printf, 1, 2)))
static void refuse(const char *why, ...)
{
    va_list args;

    va_start(args, why);
    fputs("SHMC_FP: ", stderr);
    vfprintf(stderr, why, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(2);
}

void failpoint_arm(const char *name, enum failpoint_action action,
                   uint32_t nth, uint32_t ms)
{
    size_t index = failpoint_index(name);

    if (index == COUNT)
        refuse("the core has no point '%s'", name);
    if (action == FAILPOINT_ERR && !failpoints[index].fails)
        refuse("'%s' cannot fail: it is no SHMC_FAILS of the core", name);
    if (!nth)
        refuse("'%s': passes count from 1", name);
    if (in_use == ARMED_MAX)
        refuse("more than %d points armed", ARMED_MAX);
    armed[in_use].index = index;
    armed[in_use].action = action;
    armed[in_use].left = nth;
    armed[in_use].ms = ms;
    in_use++;
}

/* Arm one "name:action:nth". */
static void arm_one(char *text)
{
    char *rest = text, *name = strsep(&rest, ":"), *what = strsep(&rest, ":");
    char *end = NULL;
    unsigned long ms = SLEEP_MS, nth = rest ? strtoul(rest, &end, 10) : 0;
    size_t action = 0, n = 0;

    if (!rest || !*rest || *end)
        refuse("'%s' is not of the form name:action:nth", name);
    for (; action < 4; action++) {
        n = strlen(actions[action]);
        if (!strncmp(what, actions[action], n))
            break;
    }
    if (action == FAILPOINT_SLEEP && what[n]) {
        ms = strtoul(what + n, &end, 10);
        n = *end ? n : strlen(what);
    }
    if (action == 4 || what[n])
        refuse("'%s' is none of kill, stop, sleep[ms], err", what);
    failpoint_arm(name, (enum failpoint_action)action, (uint32_t)nth,
                  (uint32_t)ms);
}

/* Arm what SHMC_FP says. */
void failpoint_arm_text(const char *text)
{
    char copy[512], *rest = copy;

    if (strlen(text) >= sizeof copy)
        refuse("longer than %zu characters", sizeof copy - 1);
    strcpy(copy, text);
    while (rest)
        arm_one(strsep(&rest, ","));
}

void failpoint_disarm(void)
{
    in_use = 0;
    counting = 0;
}

void failpoint_count_passes(void)
{
    for (size_t i = 0; i < COUNT; i++)
        passes[i] = 0;
    counting = 1;
}

uint32_t failpoint_passes(size_t index)
{
    return passes[index];
}

__attribute__((constructor))
static void arm_from_environment(void)
{
    const char *text = getenv("SHMC_FP");

    if (text && *text)
        failpoint_arm_text(text);
}
