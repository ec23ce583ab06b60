// Has a process read a wall clock that stands as many seconds beside the real one as the file $CLOCK_BESIDE says.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *beside;

__attribute__((constructor)) static void begin(void) {
	const char *path = getenv("CLOCK_BESIDE");
	int file = path ? open(path, O_RDONLY) : -1;
	void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof *beside, PROT_READ, MAP_SHARED, file, 0);
	if (at == MAP_FAILED)
		_exit(1);
	beside = at;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
	int failed = syscall(SYS_clock_gettime, clock, at);
	if (!failed && beside && clock == CLOCK_REALTIME)
		at->tv_sec += *beside;
	return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
	struct timespec now;
	int failed = clock_gettime(CLOCK_REALTIME, &now);
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return failed;
}

time_t time(time_t *at) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
