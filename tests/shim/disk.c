/*
 * A disk that fails: preloaded into a node, it answers for the system calls by which data reaches a disk.
 *
 * $MUSTER_TEST_DISK names a file with one word and a number, read anew each time:
 *   slow 200           each sync takes 200 ms longer
 *   eio 0              syncs fail with EIO, as those of a dying disk do
 *   eio-once 0         one sync of this process does, and all others succeed
 *   eio-write 0        writes fail with EIO
 *   eio-write-once 0   one write of this process does
 *   enospc 0           writes and new space fail with ENOSPC, as on a full one
 *   eio-snapshot 0     writes of snapshots fail with EIO, and nothing else does
 *   enospc-snapshot 0  the same with ENOSPC
 * No such file, or another word: the disk is sound. Only files of a RocksDB and snapshots are meant, so that logs and the rest
 * go on.
 *
 * Beside it, in a file of the same name with `.synced` behind it, stands how far each write-ahead log is on the disk for
 * certain: a power cut may take all that lies beyond.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long fault(const char *word) {
    const char *path = getenv("MUSTER_TEST_DISK");
    int kept = errno;
    long number = -1;
    char text[64] = {0}, found[32] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t got = read(file, text, sizeof text - 1);
        close(file);
        if (got <= 0 || sscanf(text, "%31s %ld", found, &number) != 2 || strcmp(found, word) != 0)
            number = -1;
    }
    errno = kept;
    return number;
}

static int has_end(const char *path, const char *end) {
    size_t length = strlen(path), tail = strlen(end);
    return length > tail && strcmp(path + length - tail, end) == 0;
}

static int path_of(int fd, char *path, size_t room) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, room - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

enum kind { OTHER, DATABASE, SNAPSHOT };

/* A write-ahead log or a table file, a snapshot whether it is finished or not, or something else? */
static enum kind kind_of(int fd) {
    char path[512];
    int kept = errno;
    enum kind kind = OTHER;
    /* What a process says of itself may go to a file that looks like a write-ahead log. */
    if (fd > STDERR_FILENO && path_of(fd, path, sizeof path)) {
        if (strstr(path, "/snapshots/"))
            kind = SNAPSHOT;
        else if (has_end(path, ".log") || has_end(path, ".sst"))
            kind = DATABASE;
    }
    errno = kept;
    return kind;
}

static int spent;

/* The first one who asks gets it. */
static int once(const char *word) {
    return fault(word) >= 0 && !__atomic_exchange_n(&spent, 1, __ATOMIC_RELAXED);
}

static long long size_of(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 ? (long long)found.st_size : 0;
}

static void is_synced(int fd, long long size) {
    char path[512], name[512], line[600];
    const char *control = getenv("MUSTER_TEST_DISK");
    if (!control || !path_of(fd, path, sizeof path) || !has_end(path, ".log"))
        return;
    snprintf(name, sizeof name, "%s.synced", control);
    int file = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0) {
        int length = snprintf(line, sizeof line, "%lld %s\n", size, path);
        if (REAL(write)(file, line, length) != length)
            abort();
        close(file);
    }
}

static int sync_fault(int fd) {
    if (kind_of(fd) == OTHER)
        return 0;
    long slow = fault("slow");
    if (slow > 0) {
        struct timespec pause = {slow / 1000, (slow % 1000) * 1000000};
        nanosleep(&pause, NULL);
    }
    return fault("eio") >= 0 || once("eio-once");
}

/* The error with which a write to this file fails; 0: with none. */
static int write_fault(int fd) {
    enum kind kind = kind_of(fd);
    if (kind == OTHER)
        return 0;
    if (fault("eio-write") >= 0 || once("eio-write-once"))
        return EIO;
    if (fault("enospc") >= 0)
        return ENOSPC;
    if (kind == SNAPSHOT && fault("eio-snapshot") >= 0)
        return EIO;
    if (kind == SNAPSHOT && fault("enospc-snapshot") >= 0)
        return ENOSPC;
    return 0;
}

#define FAIL(code) do { errno = code; return -1; } while (0)

int fsync(int fd) {
    if (sync_fault(fd))
        FAIL(EIO);
    long long size = size_of(fd);
    int done = REAL(fsync)(fd);
    if (done == 0)
        is_synced(fd, size);
    return done;
}

int fdatasync(int fd) {
    if (sync_fault(fd))
        FAIL(EIO);
    long long size = size_of(fd);
    int done = REAL(fdatasync)(fd);
    if (done == 0)
        is_synced(fd, size);
    return done;
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    if (sync_fault(fd))
        FAIL(EIO);
    return REAL(sync_file_range)(fd, offset, length, flags);
}

/* Of a log that was never synced, a power cut may take everything. */
static void is_begun(int fd) {
    if (kind_of(fd) == DATABASE && size_of(fd) == 0)
        is_synced(fd, 0);
}

ssize_t write(int fd, const void *data, size_t length) {
    int error = write_fault(fd);
    if (error)
        FAIL(error);
    is_begun(fd);
    return REAL(write)(fd, data, length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    int error = write_fault(fd);
    if (error)
        FAIL(error);
    return REAL(pwrite64)(fd, data, length, offset);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    int error = write_fault(fd);
    if (error)
        FAIL(error);
    return REAL(fallocate64)(fd, mode, offset, length);
}
