/* vsock PORT: sends standard input to the port of the host (CID 2), ends that direction, and prints
 * the answer. Exits with 1 if the host refuses, and with 2 if the connection is reset. A host that
 * ends the connection before all is sent is no error: its answer may be complete. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

int main(int argc, char **argv)
{
	static char buffer[64 << 10];
	struct sockaddr_vm host = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = argc > 1 ? strtoul(argv[1], NULL, 10) : 0,
	};
	int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
	ssize_t length;

	if (connect(stream, (struct sockaddr *)&host, sizeof host)) {
		perror("vsock");
		return 1;
	}
	while ((length = read(0, buffer, sizeof buffer)) > 0)
		for (ssize_t sent = 0, n; sent < length; sent += n)
			if ((n = send(stream, buffer + sent, length - sent, MSG_NOSIGNAL)) < 0) {
				if (errno != EPIPE)
					return 2;
				goto answer;
			}
	shutdown(stream, SHUT_WR);
answer:
	while ((length = read(stream, buffer, sizeof buffer)) > 0)
		if (write(1, buffer, length) != length)
			return 3;
	return length ? 2 : 0;
}
