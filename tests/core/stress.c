/* stress.c: processes that read and write one small segment, while they are
 * killed and stopped at random, and that check every byte they are given.
 *
 * A value names its key and ends in a checksum over all of it, and its record's
 * nonce names the key too: so a torn one, or a foreign one, shows. After a
 * delete or a set has come to its end no process may be given what was stored
 * under an older stamp; after an expiry it must be called stale.
 *
 *     stress [reads [seconds [processes [MiB [seed]]]]]
 *
 * Ends at so many reads, or seconds. Prints one line of JSON; exits with 1
 * where anything was wrong.
 */
#include "harness.h"

enum { WORKERS_MAX = 16, KEYS = 8000, TAGS = 16 };

#define HANG_NS 2000000000ll    /* without a call's end: it hangs */
#define READ_PERCENT 85
#define LENGTH_MAX 24000u
#define ODD 0x9e3779b97f4a7c15ull
#define ODD_INVERSE 0xf1de83e19937733dull
_Static_assert((uint64_t)(ODD * ODD_INVERSE) == 1, "a bijection of nonces");

/* What one process tells; it outlives the process. */
struct worker {
    _Alignas(64) _Atomic uint64_t calls;        /* ended */
    _Atomic uint64_t reads, hits, chains, stores, busy;
    _Atomic uint64_t torn, foreign, late, out_of_bounds;
    _Atomic uint32_t doing, key;        /* for a report of a hang */
    /* where it is to be killed or stopped; written before it starts */
    uint32_t point, nth, action;
    uint64_t seed;
    /* the parent's own */
    pid_t pid;
    int stopped, hurt;          /* hurt: by a signal of the parent's */
    int64_t until;              /* stopped; or when its calls last rose */
    uint64_t seen;
};

/* What all share. */
struct board {
    struct worker workers[WORKERS_MAX];
    _Alignas(64) _Atomic int64_t now;
    _Atomic uint32_t stop;
    /* no record of a lower stamp may be read any more, or be called fresh */
    _Atomic uint64_t floor[KEYS], soft[KEYS], tag_floor[TAGS];
};
static struct board *board;

static uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static uint64_t random_of(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1dull >> 16;
}

static void lift(_Atomic uint64_t *word, uint64_t to)
{
    uint64_t seen = atomic_load(word);

    while (seen < to && !atomic_compare_exchange_weak(word, &seen, to))
        ;
}

static void tally(_Atomic uint64_t *word)
{
    atomic_store_explicit(
        word, atomic_load_explicit(word, memory_order_relaxed) + 1,
        memory_order_relaxed);
}

/* ---- values */

/* From no byte at all to beyond an extent; most of some hundred bytes. */
static uint32_t length_for(uint32_t key, uint32_t salt)
{
    uint64_t r = mixed((uint64_t)key << 32 | salt);
    uint32_t span = r % 64 == 0 ? LENGTH_MAX : r % 64 < 3 ? 17 : 500;

    return (uint32_t)(r >> 16) % span;
}

/* Over all bytes, eight at a time. */
static uint64_t checksum(const char *p, uint32_t len, uint64_t seed)
{
    uint64_t a = seed, b = ~seed, lane;
    uint32_t i = 0;

    for (; i + 16 <= len; i += 16) {
        memcpy(&lane, p + i, 8);
        a = (a ^ lane) * ODD;
        a ^= a >> 29;
        memcpy(&lane, p + i + 8, 8);
        b = (b ^ lane) * 0xd6e8feb86659fd93ull;
        b ^= b >> 31;
    }
    for (; i < len; i++)
        a = (a ^ (uint8_t)p[i]) * ODD;
    return mixed(a ^ b);
}

/* {key, salt}, then noise, then the checksum; of less than sixteen bytes the
 * noise alone, which the nonce tells.
 */
static void fill_value(char *out, uint32_t len, uint64_t name)
{
    uint64_t noise = mixed(name) | 1;
    uint32_t body = len < 16 ? len : len - 8, i = 0;

    if (len >= 16) {
        memcpy(out, &name, 8);
        i = 8;
    }
    for (; i + 8 <= body; i += 8, noise = noise * ODD + 1)
        memcpy(out + i, &noise, 8);
    memcpy(out + i, &noise, body - i);
    if (len >= 16) {
        uint64_t sum = checksum(out, body, name);
        memcpy(out + body, &sum, 8);
    }
}

/* Count what is wrong with a value that was read as the key's. */
static void check_value(struct worker *w, uint32_t key, const shmc_found *f,
                        const char *value)
{
    uint32_t len = f->length;
    uint64_t name = f->head.nonce * ODD_INVERSE, own = name, sum = 0;
    char noise[16];

    if (name >> 32 != key)
        tally(&w->foreign);
    else if (len != length_for(key, (uint32_t)name))
        tally(&w->torn);
    else if (len < 16) {
        fill_value(noise, len, name);
        if (memcmp(noise, value, len))
            tally(&w->torn);
    } else {
        memcpy(&own, value, 8);
        memcpy(&sum, value + len - 8, 8);
        if (sum != checksum(value, len - 8, own))
            tally(&w->torn);
        else if (own != name)
            tally(&w->foreign);
    }
}

/* ---- one process */

/* What a worker knows; of floors, what stood some calls ago. */
struct self {
    shmc t;
    struct worker *w;
    uint64_t random;
    uint64_t tag_floor[TAGS];
    char *value;                /* room for the longest */
};

static uint32_t key_for(struct self *me)
{
    uint64_t r = random_of(&me->random) & 0xffff;

    return (uint32_t)(r * r * KEYS >> 32);      /* the lower the likelier */
}

static int64_t now_ns(void)
{
    return atomic_load_explicit(&board->now, memory_order_relaxed);
}

/* What the record must not be: older than a delete or a set that had ended, or
 * fresh after an expiry that had.
 */
static void check_order(struct self *me, const shmc_found *f, uint64_t floor,
                        uint64_t soft)
{
    int late = f->head.stamp < floor
        || (f->head.stamp < soft && f->state == SHMC_FRESH);

    for (uint32_t i = 0; i < f->head.ntags; i++)
        late |= f->head.stamp < me->tag_floor[f->tags[i] % TAGS];
    if (late)
        tally(&me->w->late);
}

static void read_one(struct self *me, uint32_t key)
{
    uint64_t floor = atomic_load(&board->floor[key]);
    uint64_t soft = atomic_load(&board->soft[key]);
    uint64_t hash = shmc_hash(&me->t, &key, 4);
    int rc = SHMC_CHANGED;
    shmc_found f;

    tally(&me->w->reads);
    for (int i = 0; i < 8 && rc == SHMC_CHANGED; i++) {
        if (shmc_find(&me->t, &key, 4, hash, now_ns(), &f) != SHMC_OK)
            return;
        if (f.length > shmc_value_max(&me->t)) {
            tally(&me->w->out_of_bounds);
            return;
        }
        rc = shmc_copy(&me->t, &f, me->value);
    }
    if (rc != SHMC_OK)
        return;
    check_value(me->w, key, &f, me->value);
    if (f.state == SHMC_DEAD)
        return;
    check_order(me, &f, floor, soft);
    shmc_touch(&me->t, &f);
    tally(&me->w->hits);
    if (f.head.kind & SHMC_CHAINED)
        tally(&me->w->chains);
}

static void store_one(struct self *me, uint32_t key, int raise)
{
    uint64_t r = random_of(&me->random), stamp;
    uint64_t name = (uint64_t)key << 32 | (uint32_t)r;
    uint32_t tags[2] = {r >> 32 & 15, r >> 36 & 15};
    int64_t now = now_ns();
    shmc_store s = {.key = &key, .key_len = 4, .value = me->value,
        .value_len = length_for(key, (uint32_t)r), .birth = now,
        .fresh_until = SHMC_FOREVER, .dead_at = SHMC_FOREVER,
        .nonce = name * ODD, .claim = SHMC_NO_CLAIM, .raise = raise, .wait = 1,
        .tags = tags, .ntags = (r >> 40 & 7) < 3 ? r >> 40 & 7 : 0,
        .fill_us = 100};

    if ((r >> 44 & 15) == 0) {  /* it will expire */
        s.fresh_until = now + 20000000;
        s.dead_at = now + 40000000;
    }
    s.stamp = shmc_clock(&me->t);
    fill_value(me->value, s.value_len, name);
    int rc = shmc_put(&me->t, &s, now, &stamp);
    if (rc == SHMC_OK) {
        tally(&me->w->stores);
        if (raise)
            lift(&board->floor[key], stamp);
    }
    if (rc == SHMC_BUSY)
        tally(&me->w->busy);
}

static void delete_one(struct self *me, uint32_t key)
{
    uint64_t number = shmc_number(&me->t);

    shmc_raise_key(&me->t, shmc_hash(&me->t, &key, 4), number, 0);
    shmc_drop(&me->t, &key, 4, number, 0, 1);
    lift(&board->floor[key], number);
}

static void expire_one(struct self *me, uint32_t key)
{
    uint64_t number = shmc_number(&me->t);

    shmc_raise_key(&me->t, shmc_hash(&me->t, &key, 4), number, 1);
    lift(&board->soft[key], number);
}

static void raise_tag(struct self *me, uint32_t tag)
{
    uint64_t number = shmc_number(&me->t);

    shmc_raise(shmc_tag_stripe(&me->t, tag, 0), number);
    lift(&board->tag_floor[tag], number);
}

static void one_call(struct self *me)
{
    uint32_t key = key_for(me), what = random_of(&me->random) % 1000;

    me->w->doing = what;
    me->w->key = key;
    if (what < 10 * READ_PERCENT)
        read_one(me, key);
    else if (what < 950)
        store_one(me, key, 0);
    else if (what < 980)
        store_one(me, key, 1);
    else if (what < 990)
        delete_one(me, key);
    else if (what < 999)
        expire_one(me, key);
    else
        raise_tag(me, key % TAGS);
    tally(&me->w->calls);
}

static void work(const shmc *of, struct worker *w)
{
    static struct self me;

    me.w = w;
    me.random = w->seed;
    attach_as(&me.t, of, (uint32_t)(w - board->workers));
    me.value = malloc(shmc_value_max(&me.t));
    CHECK(me.value);
    if (w->point < failpoint_count)
        failpoint_arm(failpoints[w->point].name, w->action, w->nth, 0);
    for (uint32_t i = 0; !board->stop; i++) {
        for (uint32_t tag = 0; tag < TAGS && i % 64 == 0; tag++)
            me.tag_floor[tag] = atomic_load(&board->tag_floor[tag]);
        one_call(&me);
    }
    free(me.value);
    _exit(0);
}

/* ---- the parent */

struct driver {
    shmc t;
    uint64_t reads, random;     /* how many are asked for; state */
    double seconds;
    uint32_t workers;
    uint64_t kills, stops, crashes, hangs;
    uint8_t met[128];           /* points where somebody was killed, stopped */
};

/* Where the next process of a worker is to end: at a random pass of a random
 * point; readers pass theirs the most often.
 */
static void plan_end(struct driver *d, struct worker *w)
{
    uint64_t r = random_of(&d->random);

    do
        w->point = (uint32_t)(random_of(&d->random) % failpoint_count);
    while (failpoints[w->point].place == IN_INIT
           || failpoints[w->point].place == IN_OUTBOX);
    if (r % 4 == 0)
        w->point = (uint32_t)failpoint_index(r & 16 ? "copy.value"
                                             : "look.head");
    w->action = r >> 8 & 1 ? FAILPOINT_STOP : FAILPOINT_KILL;
    w->nth = 1 + (uint32_t)(r >> 16) % (1u << (r >> 60));
    w->seed = random_of(&d->random) | 1;
}

static void start(struct driver *d, struct worker *w)
{
    plan_end(d, w);
    pid_t pid = fork_child();
    if (!pid)
        work(&d->t, w);
    w->pid = pid;
    w->stopped = w->hurt = 0;
    w->until = clock_ns();
    w->seen = w->calls;
}

static struct worker *worker_of(struct driver *d, pid_t pid)
{
    for (uint32_t i = 0; i < d->workers; i++)
        if (board->workers[i].pid == pid)
            return &board->workers[i];
    abort();
}

/* A process ended or was stopped. Ended by our SIGKILL alone is right. */
static void note_end(struct driver *d, pid_t pid, int status)
{
    struct worker *w = worker_of(d, pid);
    uint64_t r = random_of(&d->random);

    if (!w->hurt && (WIFSTOPPED(status) || WIFSIGNALED(status)))
        d->met[w->point] = 1;
    if (WIFSTOPPED(status)) {
        w->hurt = 0;
        w->stopped = 1;
        w->until = clock_ns()
            + (int64_t)(r % (r >> 32 & 7 ? 3000000 : 30000000));
        d->stops++;
        return;
    }
    w->pid = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        d->kills++;
    } else if (!board->stop || !WIFEXITED(status) || WEXITSTATUS(status)) {
        fprintf(stderr, "a process ended with status %x, doing %u with key "
                "%u\n", status, w->doing, w->key);
        d->crashes++;
    }
    if (!board->stop)
        start(d, w);
}

static void collect(struct driver *d)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0)
        note_end(d, pid, status);
}

static void hurt(struct worker *w, int signal)
{
    w->hurt = 1;
    kill(w->pid, signal);
}

/* Let who was stopped go on in time, or kill it; see who hangs. */
static void look_after(struct driver *d, struct worker *w)
{
    int64_t now = clock_ns();

    if (!w->pid)
        return;
    if (w->stopped) {
        if (now < w->until)
            return;
        if (random_of(&d->random) % 4 == 0)
            hurt(w, SIGKILL);
        kill(w->pid, SIGCONT);
        w->stopped = 0;
        w->until = now;
    } else if (w->calls != w->seen) {
        w->seen = w->calls;
        w->until = now;
    } else if (now - w->until > HANG_NS) {
        fprintf(stderr, "process %u hangs, doing %u with key %u\n",
                (uint32_t)(w - board->workers), w->doing, w->key);
        d->hangs++;
        hurt(w, SIGKILL);
        w->until = now;
    }
}

static uint64_t sum_of(const struct driver *d, size_t field)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < d->workers; i++)
        sum += *(_Atomic uint64_t *)((char *)&board->workers[i] + field);
    return sum;
}
#define SUM(d, field) sum_of(d, offsetof(struct worker, field))

static void sleep_us(uint32_t us)
{
    struct timespec ts = {0, (long)us * 1000};

    nanosleep(&ts, NULL);
}

static void run(struct driver *d, int64_t start_ns)
{
    int64_t end_ns = start_ns + (int64_t)(d->seconds * 1e9);

    while (SUM(d, reads) < d->reads && clock_ns() < end_ns && !d->hangs) {
        uint64_t r = random_of(&d->random);
        struct worker *w = &board->workers[r % d->workers];

        sleep_us(500 + r % 1000);
        board->now = clock_ns() - start_ns;
        collect(d);
        for (uint32_t i = 0; i < d->workers; i++)
            look_after(d, &board->workers[i]);
        if (r >> 16 & 7 || w->stopped)
            continue;
        hurt(w, r >> 20 & 3 ? SIGKILL : SIGSTOP);
    }
    board->stop = 1;
    for (uint32_t left = 1; left; sleep_us(500)) {
        collect(d);
        left = 0;
        for (uint32_t i = 0; i < d->workers; i++) {
            look_after(d, &board->workers[i]);
            left += board->workers[i].pid != 0;
        }
    }
}

/* What stands in the end is right, nothing contradicts anything, and every
 * shard takes a store at once.
 */
static void look_at_the_end(struct driver *d)
{
    static struct self me;

    me.t = d->t;
    me.w = &board->workers[0];
    me.value = malloc(shmc_value_max(&d->t));
    CHECK(me.value);
    for (uint32_t k = 0; k < KEYS; k++)
        read_one(&me, k);
    free(me.value);
    for (uint32_t k = 0; k < 64 * d->t.g.shards; k++) {
        int64_t before = clock_ns();
        CHECK(put_number(&d->t, KEYS + k, 0) == SHMC_OK);
        CHECK(clock_ns() - before < 100000000);
    }
    check_books(&d->t);
}

/* The same in a process of its own, which dies of what it finds wrong. */
static void check_end(struct driver *d)
{
    int status;
    pid_t pid = fork_child();

    if (!pid) {
        look_at_the_end(d);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    d->crashes += status != 0;
}

static int tell(struct driver *d, double seconds)
{
    uint64_t c[SHMC_C_CORE_END] = {0}, points = 0;
    shmc_usage u;

    for (uint32_t i = 0; i < d->workers; i++)
        for (uint32_t k = 0; k < SHMC_C_CORE_END; k++)
            c[k] += d->t.slots[i].counters[k];
    for (uint32_t p = 0; p < failpoint_count; p++)
        points += d->met[p];
    shmc_measure(&d->t, SHMC_SHARDS_MAX, &u);
    uint64_t wrong = SUM(d, torn) + SUM(d, foreign) + SUM(d, late)
        + SUM(d, out_of_bounds) + d->crashes + d->hangs
        + c[SHMC_C_SHARDS_WIPED] + u.disabled_shards;
#define N(x) (unsigned long)(x)
    printf("{\"reads\": %lu, \"hits\": %lu, \"chains\": %lu, \"stores\": %lu, "
           "\"evicted\": %lu, \"retries\": %lu, \"busy\": %lu, "
           "\"kills\": %lu, \"stops\": %lu, \"points\": %lu, "
           "\"torn\": %lu, \"foreign\": %lu, \"late\": %lu, "
           "\"out_of_bounds\": %lu, \"crashes\": %lu, \"hangs\": %lu, "
           "\"recovered\": %lu, \"wiped\": %lu, \"disabled\": %lu, "
           "\"seconds\": %.1f}\n",
           N(SUM(d, reads)), N(SUM(d, hits)), N(SUM(d, chains)),
           N(SUM(d, stores)), N(c[SHMC_C_EVICTED]), N(c[SHMC_C_RETRIES]),
           N(SUM(d, busy)), N(d->kills), N(d->stops), N(points),
           N(SUM(d, torn)), N(SUM(d, foreign)),
           N(SUM(d, late)), N(SUM(d, out_of_bounds)), N(d->crashes),
           N(d->hangs), N(c[SHMC_C_LOCKS_RECOVERED]), N(c[SHMC_C_SHARDS_WIPED]),
           N(u.disabled_shards), seconds);
    return wrong != 0;
}

int main(int argc, char **argv)
{
    static struct driver d;
    double args[5] = {1e7, 60, 4, 1, 1};
    shmc_geometry g;

    for (int i = 1; i < argc && i < 6; i++)
        args[i - 1] = atof(argv[i]);
    d.reads = (uint64_t)args[0];
    d.seconds = args[1];
    d.workers = (uint32_t)args[2];
    d.random = (uint64_t)args[4] * ODD | 1;
    CHECK(d.workers >= 1 && d.workers <= WORKERS_MAX);
    CHECK(shmc_plan((uint64_t)(args[3] * MIB), 0, 2, &g) == SHMC_OK);
    make_with(&d.t, &g);
    board = map_segment((sizeof *board / SHMC_PAGE + 1) * SHMC_PAGE);
    int64_t start_ns = clock_ns();
    for (uint32_t i = 0; i < d.workers; i++)
        start(&d, &board->workers[i]);
    run(&d, start_ns);
    if (!d.hangs)
        check_end(&d);
    return tell(&d, (double)(clock_ns() - start_ns) / 1e9);
}
