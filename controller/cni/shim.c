/* The CNI plugin that the container runtime runs: a static program, since a host may have neither Python nor our libraries.
 *
 * It passes standard input, the CNI_* variables and the opened network namespace to the agent, and prints the answer. Without an agent
 * it answers by itself: VERSION and DEL succeed, STATUS asks the marker that the agent left, and the rest says try again.
 * The frame is described in protocol.py; plugin.py is the readable twin, and prints the same bytes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIMIT (1 << 20)
#define HEADER 4
#define VERSION_MAX 15
#define SPACES " \t\n\r\f\v"

extern char **environ;
/* Pages that are not touched take no memory. */
static char input[LIMIT + 2];
static char frame[HEADER + LIMIT];
static char answer[LIMIT];

static int is_command(const char *name)
{
	const char *command = getenv("CNI_COMMAND");
	return command && !strcmp(command, name);
}

/* The first "cniVersion": "DIGITS AND DOTS" in the input, which may be no JSON; else the latest that we know. */
static const char *version_in(size_t size)
{
	static const char key[] = "\"cniVersion\"";
	static char version[VERSION_MAX + 1];
	const char *at = input;

	input[size] = '\0';
	while ((at = memmem(at, (size_t)(input + size - at), key, sizeof key - 1))) {
		const char *start = at += sizeof key - 1;
		start += strspn(start, SPACES);
		if (*start++ != ':')
			continue;
		start += strspn(start, SPACES);
		if (*start++ != '"')
			continue;
		size_t length = strspn(start, "0123456789.");
		if (!length || length > VERSION_MAX || start[length] != '"')
			continue;
		memcpy(version, start, length);
		return version;
	}
	return "1.1.0";
}

static int print_error(const char *version, int code, const char *message, const char *details)
{
	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", version, code, message, details);
	return 1;
}

static int own_answer(const char *version, const char *folder)
{
	char marker[4096];

	/* Removing the namespace frees everything, and the agent sees the link go. */
	if (is_command("DEL"))
		return 0;
	if (!is_command("STATUS"))
		return print_error(version, 11, "the podroute agent does not answer", "wait until it runs on this node, or see its log");
	snprintf(marker, sizeof marker, "%s/ready", folder);
	if (!access(marker, F_OK))
		return 0;
	return print_error(version, 50, "the podroute agent has not been ready since boot", "wait for it, or see its log");
}

/* The call as protocol.py frames it; its size, or 0 if it is too large. */
static size_t framed_call(size_t input_size)
{
	size_t size = HEADER;

	for (char **variable = environ; *variable; variable++) {
		size_t length = strlen(*variable) + 1;
		if (strncmp(*variable, "CNI_", 4))
			continue;
		if (length > sizeof frame - size)
			return 0;
		memcpy(frame + size, *variable, length);
		size += length;
	}
	if (input_size + 1 > sizeof frame - size)
		return 0;
	frame[size++] = '\0';
	memcpy(frame + size, input, input_size);
	size += input_size;
	uint32_t length = htonl((uint32_t)(size - HEADER));
	memcpy(frame, &length, HEADER);
	return size;
}

/* ADD waits up to 20 s for a block of addresses, DEL for an ADD of the same container; the kubelet itself gives up after 2 min. */
static int connected(const char *folder)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = is_command("ADD") ? 60 : is_command("STATUS") ? 5 : 30 };
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (agent < 0 || snprintf(address.sun_path, sizeof address.sun_path, "%s/cni.sock", folder) >= (int)sizeof address.sun_path)
		return -1;
	setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return connect(agent, (struct sockaddr *)&address, sizeof address) ? -1 : agent;
}

/* The namespace goes with the first bytes; whether it is an error that there is none is the agent's to say. */
static int send_call(int agent, size_t size)
{
	const char *path = getenv("CNI_NETNS");
	int netns = path && *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = { .header = {
		.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	size_t sent = 0;

	memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
	while (sent < size) {
		struct iovec rest = { frame + sent, size - sent };
		struct msghdr message = { .msg_iov = &rest, .msg_iovlen = 1 };
		if (!sent && netns >= 0) {
			message.msg_control = control.space;
			message.msg_controllen = sizeof control.space;
		}
		ssize_t step = sendmsg(agent, &message, MSG_NOSIGNAL);
		if (step < 0 && errno == EINTR)
			continue;
		if (step <= 0)
			return -1;
		sent += (size_t)step;
	}
	return 0;
}

static int receive(int agent, void *data, size_t size)
{
	return recv(agent, data, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

int main(void)
{
	const char *folder = getenv("PODROUTE_RUN");
	size_t input_size = fread(input, 1, LIMIT + 1, stdin);
	const char *version = version_in(input_size);
	uint32_t length;

	if (!folder || !*folder)
		folder = "/run/podroute/agent";
	if (is_command("VERSION")) {
		printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n", version);
		return 0;
	}
	size_t size = framed_call(input_size);
	if (!size)
		return print_error(version, 6, "the call is too large", "give a configuration of less than 1 MiB");
	int agent = connected(folder);
	if (agent < 0 || send_call(agent, size) || receive(agent, &length, HEADER))
		return own_answer(version, folder);
	length = ntohl(length);
	if (length < 1 || length > LIMIT || receive(agent, answer, length))
		return own_answer(version, folder);
	fwrite(answer + 1, 1, length - 1, stdout);
	return (unsigned char)answer[0];
}
