/* threads.h: what tests of threads need, so that TSan sees their locks. */
#ifndef SHMC_THREADS_H
#define SHMC_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <time.h>

#ifdef __SANITIZE_THREAD__
/* TSan does not know this way of taking a lock; it knows trylock. */
int pthread_mutex_clocklock(pthread_mutex_t *lock, clockid_t clock,
                            const struct timespec *end)
{
    struct timespec now;
    int rc;

    while ((rc = pthread_mutex_trylock(lock)) == EBUSY) {
        clock_gettime(clock, &now);
        if (now.tv_sec > end->tv_sec
            || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec))
            return ETIMEDOUT;
        sched_yield();
    }
    return rc;
}
#endif

#endif
