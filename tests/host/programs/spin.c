/* spin: takes all time of the processors that it may use, for ever. No other process runs on them, the
 * agent included, so that a guest with one processor obeys nobody. Exits with 1 if it may not. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	struct sched_param highest = { .sched_priority = 99 };
	int limit = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY);

	signal(SIGTERM, SIG_IGN);
	if (limit < 0 || write(limit, "-1", 2) != 2 || sched_setscheduler(0, SCHED_FIFO, &highest)) {
		perror("spin");
		return 1;
	}
	for (;;)
		;
}
