/* Measures TCP, as a client of itself. Prints what was done and the nanoseconds that it took.
 *
 *   net serve ADDRESS PORT                serves clients; prints "serving"
 *   net up ADDRESS PORT MIB               sends
 *   net down ADDRESS PORT MIB             receives
 *   net trips ADDRESS PORT COUNT          sends a byte and receives one
 *   net connections ADDRESS PORT COUNT    the same, each on a connection of its own
 *
 * The first byte of a connection says what the server does: U receives until the end, then sends a
 * byte; D is followed by the number of MiB to send, 32 bits, big-endian; E returns each byte. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)

static char buffer[MIB];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void put(int stream, const void *bytes, size_t length)
{
	for (ssize_t sent; length; bytes = (const char *)bytes + sent, length -= sent)
		if ((sent = write(stream, bytes, length)) < 0)
			fail("write");
}

static void get(int stream, void *bytes, size_t length)
{
	for (ssize_t got; length; bytes = (char *)bytes + got, length -= got)
		if ((got = read(stream, bytes, length)) <= 0)
			fail("read");
}

/* Receives until the end of the stream. */
static long long drain(int stream)
{
	long long total = 0;
	ssize_t got;

	while ((got = read(stream, buffer, sizeof buffer)) > 0)
		total += got;
	if (got < 0)
		fail("read");
	return total;
}

static void serve(int stream)
{
	uint32_t mib;
	ssize_t got;
	char order;

	get(stream, &order, 1);
	switch (order) {
	case 'U':
		drain(stream);
		put(stream, "", 1);
		break;
	case 'D':
		get(stream, &mib, sizeof mib);
		for (mib = ntohl(mib); mib; mib--)
			put(stream, buffer, MIB);
		break;
	case 'E':
		while ((got = read(stream, buffer, 1)) > 0)
			put(stream, buffer, 1);
	}
}

static void listen_for(const struct sockaddr_in *address)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), stream, on = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (const struct sockaddr *)address, sizeof *address) || listen(listener, 512))
		fail("listen");
	signal(SIGCHLD, SIG_IGN);
	puts("serving");
	fflush(stdout);
	while ((stream = accept(listener, NULL, NULL)) >= 0) {
		setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		if (!fork()) {
			close(listener);
			serve(stream);
			_exit(0);
		}
		close(stream);
	}
	fail("accept");
}

static int dial(const struct sockaddr_in *address)
{
	int stream = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(stream, (const struct sockaddr *)address, sizeof *address))
		fail("connect");
	return stream;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	const char *what = argv[1];
	long long start;
	uint32_t count, order;
	char byte;
	int stream;

	if (argc < 4 || !inet_aton(argv[2], &address.sin_addr))
		return 2;
	signal(SIGPIPE, SIG_IGN);
	address.sin_port = htons(atoi(argv[3]));
	if (!strcmp(what, "serve"))
		listen_for(&address);
	count = argc > 4 ? atoi(argv[4]) : 1;
	order = htonl(count);
	start = now();
	if (!strcmp(what, "connections")) {
		for (uint32_t n = 0; n < count; n++) {
			stream = dial(&address);
			put(stream, "Ex", 2);
			get(stream, &byte, 1);
			close(stream);
		}
	} else if (!strcmp(what, "trips")) {
		stream = dial(&address);
		put(stream, "E", 1);
		start = now();
		for (uint32_t n = 0; n < count; n++) {
			put(stream, "x", 1);
			get(stream, &byte, 1);
		}
	} else if (!strcmp(what, "up")) {
		stream = dial(&address);
		put(stream, "U", 1);
		for (uint32_t n = 0; n < count; n++)
			put(stream, buffer, MIB);
		shutdown(stream, SHUT_WR);
		get(stream, &byte, 1);
	} else if (!strcmp(what, "down")) {
		stream = dial(&address);
		put(stream, "D", 1);
		put(stream, &order, sizeof order);
		if (drain(stream) != (long long)count * MIB)
			return 3;
	} else {
		return 2;
	}
	printf("NET %s %u %lld\n", what, count, now() - start);
	return 0;
}
