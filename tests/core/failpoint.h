/* failpoint.h: what a test build does at the core's steps.
 *
 * A core built with -DSHMC_STEPS calls shmc_step at each of its points. Nothing
 * happens there until something is armed: by a test that calls failpoint_arm,
 * or for a whole process by its environment,
 *
 *     SHMC_FP=name:kill|stop|sleep[ms]|err:nth[,more]
 *
 * The nth pass of that point in this process is killed, stopped, delayed, or
 * (at a SHMC_FAILS point alone) made to fail; each fires once. What no point of
 * the core bears, or cannot do, ends the process with 2.
 */
#ifndef SHMC_FAILPOINT_H
#define SHMC_FAILPOINT_H

#include <stddef.h>
#include <stdint.h>

enum failpoint_action {
    FAILPOINT_KILL, FAILPOINT_STOP, FAILPOINT_SLEEP, FAILPOINT_ERR
};

/* Where a point stands, for the tests that must meet each. */
enum failpoint_place {
    IN_SHARD,                   /* under a shard's lock */
    IN_READ,                    /* of a reader: holds nothing, writes nothing */
    IN_WORDS,                   /* of a writer that holds no lock */
    IN_OUTBOX,                  /* of the outbox, with its lock or without */
    IN_RECOVERY,                /* of a lock taken over, or given up */
    IN_INIT
};

struct failpoint {
    const char *name;
    uint8_t place;
    uint8_t fails;              /* SHMC_FAILS: may be made to fail */
};
extern const struct failpoint failpoints[];     /* all that the core has */
extern const size_t failpoint_count;

typedef void (*step_hook)(const char *at);
extern step_hook on_step;       /* called at each step first, or NULL */

int shmc_step(const char *at);
size_t failpoint_index(const char *name);       /* failpoint_count: none */
void failpoint_arm(const char *name, enum failpoint_action action,
                   uint32_t nth, uint32_t ms);
void failpoint_arm_text(const char *text);
void failpoint_disarm(void);    /* all, and no step is counted any more */
void failpoint_count_passes(void);      /* from now on, from 0 */
uint32_t failpoint_passes(size_t index);

#endif
