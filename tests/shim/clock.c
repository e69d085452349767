/*
 * A wall clock that can be set: preloaded into a process, it answers when that asks for the time of day.
 *
 * $MUSTER_TEST_CLOCK names a file with a number: so many seconds the clock is ahead, or behind if it is negative. It is
 * read anew some times a second. No such file: the clock is right. Clocks that only go on, as those behind timers do, are not
 * touched, and neither are waits of the kernel for a time of day.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_MS 50

static const char *control;
static long ahead, looked_ms;

__attribute__((constructor)) static void begin(void) {
    control = getenv("MUSTER_TEST_CLOCK");
}

/* The kernel is asked, since the C library may ask us. */
static int kernel(clockid_t clock, struct timespec *time) {
    return (int)syscall(SYS_clock_gettime, clock, time);
}

static long read_control(void) {
    char text[32] = {0};
    int file = open(control, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? strtol(text, NULL, 10) : 0;
}

static long seconds_ahead(void) {
    struct timespec now;
    if (!control || kernel(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    long now_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    long last_ms = __atomic_load_n(&looked_ms, __ATOMIC_RELAXED);
    /* One thread looks, and all others take what was seen before. */
    if (now_ms - last_ms >= LOOK_EVERY_MS
        && __atomic_compare_exchange_n(&looked_ms, &last_ms, now_ms, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        int kept = errno;
        __atomic_store_n(&ahead, read_control(), __ATOMIC_RELAXED);
        errno = kept;
    }
    return __atomic_load_n(&ahead, __ATOMIC_RELAXED);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static __typeof__(&clock_gettime) real;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        int done = kernel(clock, time);
        if (done == 0)
            time->tv_sec += seconds_ahead();
        return done;
    }
    /* Timers ask all the time: they get the quick way. */
    __typeof__(&clock_gettime) found = __atomic_load_n(&real, __ATOMIC_RELAXED);
    if (!found) {
        found = (__typeof__(&clock_gettime))dlsym(RTLD_NEXT, "clock_gettime");
        __atomic_store_n(&real, found, __ATOMIC_RELAXED);
    }
    return found ? found(clock, time) : kernel(clock, time);
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
