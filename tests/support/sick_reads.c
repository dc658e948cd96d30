/* Lets reads of a database fail as a sick disk does: for LD_PRELOAD.
 *
 * While the file named by SICK_READS exists, reads of "cache.db" behind its second page fail with the error number
 * that stands in it: all of them, or one where "once" follows, for which the file is removed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int names_database(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    const char *name = strrchr(path, '/');
    return name != NULL && strcmp(name, "/cache.db") == 0;
}

static int sick(int fd, off_t end) {
    int before = errno, number = 0;
    char once[8] = "";
    const char *flag = getenv("SICK_READS");
    FILE *file = flag != NULL && end > 8192 && names_database(fd) ? fopen(flag, "r") : NULL;
    if (file != NULL) {
        if (fscanf(file, "%d %7s", &number, once) == 2 && strcmp(once, "once") == 0)
            unlink(flag);
        fclose(file);
    }
    errno = number ? number : before;
    return number != 0;
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset) {
    ssize_t (*inner)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    return sick(fd, offset + (off64_t)size) ? -1 : inner(fd, buffer, size, offset);
}

ssize_t read(int fd, void *buffer, size_t size) {
    ssize_t (*inner)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    off_t place = lseek(fd, 0, SEEK_CUR);
    return place >= 0 && size && sick(fd, place + (off_t)size) ? -1 : inner(fd, buffer, size);
}
