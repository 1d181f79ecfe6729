/* wsload: a load generator with many WebSocket subscribers and a few HTTP publishers, on loopback only.
 *
 * It connects the subscribers, prints that they are ready, waits for a line on stdin, publishes, and prints the result: one
 * line of JSON each on stdout. Between the two lines nothing is sent, so that the caller can measure the idle server. A
 * delivery is anything that contains the marker "t@<ns>@", where <ns> is the publisher's time of CLOCK_MONOTONIC: any server
 * that forwards text unchanged can be measured.
 *
 * One thread reads, one publishes. Templates may contain {c}, the number of a channel, {t}, the time, and {pad}, padding.
 *
 * To use as little CPU as possible, only the first --witnesses subscribers of each channel read and decode what they receive;
 * for the others the kernel counts the bytes and discards them (MSG_TRUNC), every --rest milliseconds. A subscriber with as
 * many bytes as the first witness of its channel received the same messages; one with fewer received that share of them.
 *
 * Build: cc -O2 -pthread -o wsload wsload.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };
enum { BUFFER = 32 * 1024, REQUEST = 16 * 1024, LIST = 8, EVENTS = 1024, BUCKETS = 64 * 32 };

static struct {
    int port, publish_port, connections, channels, publishers, rate, padding, replies, opening, witnesses, rest;
    double seconds, drain;
    const char *path, *protocol, *publish_path, *body, *ping, *pong, *hello[LIST], *header[LIST];
} option = {.connections = 100, .channels = 1, .publishers = 4, .padding = 120, .opening = 64, .seconds = 1, .drain = 3,
            .path = "/", .publish_path = "/", .body = "t@{t}@{pad}"};

static int *subscriber_counts; /* by channel */
static atomic_ulong published, refused, expected;
static atomic_bool finished; /* every publish has its response */

#define die(...) (fputs("wsload: ", stderr), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(2))

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* ---- latencies: 32 buckets for each power of two, so that a figure is wrong by at most 3 % */

typedef struct {
    unsigned long counts[BUCKETS], total;
    uint64_t longest;
} histogram;

static void record(histogram *h, uint64_t us) {
    int shift = us < 64 ? 0 : 58 - __builtin_clzll(us);
    h->counts[shift * 32 + (us >> shift)]++;
    h->total++;
    if (us > h->longest) h->longest = us;
}

static double milliseconds(const histogram *h, double share) {
    unsigned long seen = 0, wanted = (unsigned long)(h->total * share);
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += h->counts[i]) > wanted) {
            int shift = i < 64 ? 0 : i / 32 - 1;
            return ((uint64_t)(i - shift * 32) << shift) / 1000.0;
        }
    return h->longest / 1000.0;
}

/* ---- sockets and frames */

static int dial(int port) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0) die("socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&where, sizeof where)) die("connect to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void watch_readable(int epoll, int fd, void *owner) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = owner};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

/* Requests and frames fit the buffer of a socket, and the server reads: a short write would be a fault of the server. */
static bool send_all(int fd, const void *data, int size) { return send(fd, data, size, MSG_NOSIGNAL) == size; }

static int fill_template(char *out, int room, const char *template, int channel, uint64_t time) {
    int size = 0;
    for (const char *p = template; *p;) {
        if (room - size < option.padding + 32) die("template too long: %s", template);
        if (!strncmp(p, "{c}", 3)) size += sprintf(out + size, "%d", channel), p += 3;
        else if (!strncmp(p, "{t}", 3)) size += sprintf(out + size, "%llu", (unsigned long long)time), p += 3;
        else if (!strncmp(p, "{pad}", 5)) memset(out + size, 'x', option.padding), size += option.padding, p += 5;
        else out[size++] = *p++;
    }
    out[size] = 0;
    return size;
}

static bool send_frame(int fd, int opcode, const char *payload, int size) {
    unsigned char frame[REQUEST + 8] = {0x80 | opcode};
    int head = size < 126 ? 2 : 4;
    frame[1] = 0x80 | (size < 126 ? size : 126);
    if (size >= 126) frame[2] = size >> 8, frame[3] = size & 0xff;
    memcpy(frame + head + 4, payload, size); /* masked with four zeros, which leaves the payload unchanged */
    return send_all(fd, frame, head + 4 + size);
}

/* ---- subscribers */

typedef struct {
    int fd, channel, used, replies;
    bool upgraded, ready, discards;
    unsigned long bytes, messages; /* received since publishing began */
    unsigned char *buffer;
} subscriber;

static int ready, closed;
static unsigned long delivered, discarded_bytes;
static histogram latency;

static void subscribe(subscriber *s, int index, int epoll) {
    char path[1024], request[REQUEST];
    s->fd = dial(option.port);
    s->channel = index % option.channels;
    s->discards = option.witnesses && index / option.channels >= option.witnesses;
    s->buffer = malloc(BUFFER);
    fill_template(path, sizeof path, option.path, s->channel, 0);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s%s\r\n",
                        path, option.port, option.protocol ? "Sec-WebSocket-Protocol: " : "",
                        option.protocol ? option.protocol : "", option.protocol ? "\r\n" : "");
    if (!send_all(s->fd, request, size)) die("handshake: %s", strerror(errno));
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    watch_readable(epoll, s->fd, s);
}

static void count_if_ready(subscriber *s) {
    if (s->ready || s->replies < option.replies) return;
    s->ready = true;
    ready++;
    subscriber_counts[s->channel]++;
}

/* Takes the handshake response; returns the size of its header, 0 while it is incomplete. */
static int take_upgrade_response(subscriber *s) {
    unsigned char *end = memmem(s->buffer, s->used, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(s->buffer, "HTTP/1.1 101", 12)) die("handshake rejected: %.*s", s->used, s->buffer);
    char message[REQUEST];
    for (int i = 0; i < LIST && option.hello[i]; i++) {
        int size = fill_template(message, sizeof message, option.hello[i], s->channel, 0);
        if (!send_frame(s->fd, TEXT, message, size)) die("hello: %s", strerror(errno));
    }
    s->upgraded = true;
    count_if_ready(s);
    return end + 4 - s->buffer;
}

static void count_deliveries(subscriber *s, const unsigned char *payload, uint64_t size, uint64_t at) {
    const unsigned char *end = payload + size, *p = payload;
    while ((p = memmem(p, end - p, "t@", 2))) {
        uint64_t sent = 0;
        for (p += 2; p < end && *p >= '0' && *p <= '9'; p++) sent = sent * 10 + (*p - '0');
        if (!sent || p == end || *p != '@') continue;
        record(&latency, at > sent ? (at - sent) / 1000 : 0);
        delivered++;
        s->messages++;
    }
}

/* Takes one frame at p; returns its size, 0 while it is incomplete, -1 on a Close frame. */
static int take_frame(subscriber *s, unsigned char *p, int available, uint64_t at) {
    if (available < 2) return 0;
    uint64_t size = p[1] & 127;
    int head = size < 126 ? 2 : size == 126 ? 4 : 10;
    if (available < head) return 0;
    if (head > 2) size = 0;
    for (int i = 2; i < head; i++) size = size << 8 | p[i];
    if (size + head > BUFFER) die("a frame of %llu bytes", (unsigned long long)size);
    if ((uint64_t)available < size + head) return 0;
    const char *payload = (const char *)p + head;
    int opcode = p[0] & 15;
    if (opcode == CLOSE) return -1;
    if (opcode == PING) {
        send_frame(s->fd, PONG, payload, size);
    } else if (opcode != PONG) {
        if (option.ping && size == strlen(option.ping) && !memcmp(payload, option.ping, size))
            send_frame(s->fd, TEXT, option.pong, strlen(option.pong));
        else if (!s->ready)
            s->replies++, count_if_ready(s);
        else
            count_deliveries(s, (unsigned char *)payload, size, at);
    }
    return head + size;
}

/* Returns the messages that all subscribers received. All subscribers of a channel are sent the same bytes. */
static unsigned long total_deliveries(const subscriber *all) {
    unsigned long sum = delivered;
    for (int i = option.witnesses * option.channels; option.witnesses && i < option.connections; i++) {
        const subscriber *witness = &all[all[i].channel];
        if (witness->bytes) sum += all[i].bytes >= witness->bytes ? witness->messages : all[i].bytes * witness->messages / witness->bytes;
    }
    return sum;
}

static void discard_input(subscriber *s) {
    ssize_t got = recv(s->fd, NULL, 1 << 24, MSG_TRUNC);
    if (got > 0) s->bytes += got, discarded_bytes += got;
    else if (got == 0 || (errno != EAGAIN && errno != EINTR)) close(s->fd), closed++;
}

/* Returns whether there may be more to read: the buffer was filled. */
static bool receive(subscriber *s) {
    if (s->discards && s->ready) return discard_input(s), false;
    int room = BUFFER - s->used, got = recv(s->fd, s->buffer + s->used, room, 0), done = 0, size = 0;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    uint64_t at = now();
    if (got > 0) {
        s->used += got;
        s->bytes += got;
        if (!s->upgraded) done = take_upgrade_response(s);
        while (s->upgraded && (size = take_frame(s, s->buffer + done, s->used - done, at)) > 0) done += size;
        memmove(s->buffer, s->buffer + done, s->used -= done);
    }
    if (got <= 0 || size < 0) return close(s->fd), closed++, false;
    return got == room;
}

/* ---- publishers: each sends its next request after the response to the last one */

typedef struct {
    int fd, used, channel;
    bool busy;
    char buffer[REQUEST];
} publisher;

static void publish(publisher *p, int channel) {
    char path[1024], body[REQUEST / 2], request[REQUEST];
    fill_template(path, sizeof path, option.publish_path, channel, 0);
    int length = fill_template(body, sizeof body, option.body, channel, now());
    int size = snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n", path, length);
    for (int i = 0; i < LIST && option.header[i]; i++)
        size += snprintf(request + size, sizeof request - size, "%s\r\n", option.header[i]);
    size += snprintf(request + size, sizeof request - size, "\r\n%s", body);
    if (!send_all(p->fd, request, size)) die("publish: %s", strerror(errno));
    p->busy = true;
    p->channel = channel;
    published++;
}

static void take_response(publisher *p) {
    int got = recv(p->fd, p->buffer + p->used, sizeof p->buffer - 1 - p->used, 0);
    if (got <= 0) die("a publisher was disconnected");
    p->buffer[p->used += got] = 0;
    char *end = strstr(p->buffer, "\r\n\r\n");
    char *length = strcasestr(p->buffer, "\r\ncontent-length:");
    if (!end) return;
    if (!length || length > end) die("a response without Content-Length: %s", p->buffer);
    if (p->buffer + p->used < end + 4 + atoi(length + 17)) return;
    if (!strncmp(p->buffer, "HTTP/1.1 2", 10)) expected += subscriber_counts[p->channel];
    else if (!refused++) fprintf(stderr, "wsload: publish rejected: %s\n", p->buffer);
    p->used = 0;
    p->busy = false;
}

static void *publish_all(void *unused) {
    (void)unused;
    publisher *all = calloc(option.publishers, sizeof *all);
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0), channel = 0, busy = 0, turn = 0;
    for (int i = 0; i < option.publishers; i++) watch_readable(epoll, all[i].fd = dial(option.publish_port), &all[i]);
    uint64_t start = now(), end = start + (uint64_t)(option.seconds * 1e9), give_up = end + (uint64_t)(option.drain * 1e9);
    for (uint64_t t = start; t < end || (busy && t < give_up); t = now()) {
        uint64_t due = option.rate ? (uint64_t)((t - start) * (option.rate / 1e9)) + 1 : UINT64_MAX;
        for (int i = 0; i < option.publishers && t < end && published < due; i++) {
            publisher *p = &all[turn++ % option.publishers]; /* in turn: servers close idle connections */
            if (p->busy) continue;
            publish(p, channel);
            channel = (channel + 1) % option.channels;
            busy++;
        }
        int n = epoll_wait(epoll, events, EVENTS, 1);
        for (int i = 0; i < n; i++) {
            publisher *p = events[i].data.ptr;
            take_response(p);
            busy -= !p->busy;
        }
    }
    finished = true;
    return NULL;
}

/* ---- the run */

static void parse(int count, char **arguments) {
    enum { PORT = 1, PUBLISH_PORT, CONNECTIONS, CHANNELS, PUBLISHERS, RATE, PADDING, REPLIES, WITNESSES, REST, SECONDS, DRAIN, PATH,
           PROTOCOL, PUBLISH_PATH, BODY, PING_TEXT, PONG_TEXT, HELLO, HEADER };
    static const struct option known[] = {
        {"port", 1, 0, PORT}, {"publish-port", 1, 0, PUBLISH_PORT}, {"connections", 1, 0, CONNECTIONS},
        {"channels", 1, 0, CHANNELS}, {"publishers", 1, 0, PUBLISHERS}, {"rate", 1, 0, RATE}, {"padding", 1, 0, PADDING},
        {"replies", 1, 0, REPLIES}, {"witnesses", 1, 0, WITNESSES}, {"rest", 1, 0, REST}, {"seconds", 1, 0, SECONDS}, {"drain", 1, 0, DRAIN}, {"path", 1, 0, PATH},
        {"protocol", 1, 0, PROTOCOL}, {"publish-path", 1, 0, PUBLISH_PATH}, {"body", 1, 0, BODY},
        {"ping", 1, 0, PING_TEXT}, {"pong", 1, 0, PONG_TEXT}, {"hello", 1, 0, HELLO}, {"header", 1, 0, HEADER}, {0}};
    int *numbers[] = {0, &option.port, &option.publish_port, &option.connections, &option.channels, &option.publishers,
                      &option.rate, &option.padding, &option.replies, &option.witnesses, &option.rest};
    const char **texts[] = {&option.path, &option.protocol, &option.publish_path, &option.body, &option.ping, &option.pong};
    int hellos = 0, headers = 0;
    for (int key; (key = getopt_long(count, arguments, "", known, 0)) != -1;) {
        if (key == '?' || (key == HELLO && hellos == LIST - 1) || (key == HEADER && headers == LIST - 1)) exit(2);
        else if (key <= REST) *numbers[key] = atoi(optarg);
        else if (key == SECONDS) option.seconds = atof(optarg);
        else if (key == DRAIN) option.drain = atof(optarg);
        else if (key <= PONG_TEXT) *texts[key - PATH] = optarg;
        else if (key == HELLO) option.hello[hellos++] = optarg;
        else option.header[headers++] = optarg;
    }
    if (option.port < 1 || option.publish_port < 1 || option.connections < 1 || option.channels < 1)
        die("expected --port, --publish-port, and at least one connection and channel");
}

/* Returns the processor time that this process has taken, user and system. */
static double cpu_seconds(void) {
    struct rusage taken;
    getrusage(RUSAGE_SELF, &taken);
    return taken.ru_utime.tv_sec + taken.ru_stime.tv_sec + (taken.ru_utime.tv_usec + taken.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    parse(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    subscriber_counts = calloc(option.channels, sizeof *subscriber_counts);
    subscriber *all = calloc(option.connections, sizeof *all);
    struct epoll_event events[EVENTS];
    pthread_t thread;
    int epoll = epoll_create1(0), opened = 0;
    bool ready_printed = false;
    uint64_t begun = now(), start = 0, last = 0;
    unsigned long before = 0;
    double cpu = 0;
    for (;;) {
        while (opened < option.connections && opened - ready - closed < option.opening)
            subscribe(&all[opened], opened, epoll), opened++;
        int n = epoll_wait(epoll, events, EVENTS, 20);
        for (int i = 0; i < n; i++) {
            char line[64];
            if (events[i].data.ptr) {
                while (receive(events[i].data.ptr) && option.rest); /* with --rest: read everything, or be a slow client itself */
            } else if (read(0, line, sizeof line) <= 0) return 0;
            else {
                epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
                for (int j = 0; j < option.connections; j++) all[j].bytes = 0;
                cpu = cpu_seconds();
                start = last = now();
                pthread_create(&thread, 0, publish_all, 0);
            }
        }
        if (!ready_printed && ready + closed == option.connections) {
            ready_printed = true;
            printf("{\"ready\": %d, \"connect_s\": %.3f}\n", ready, (now() - begun) / 1e9);
            fflush(stdout);
            watch_readable(epoll, 0, NULL);
        }
        if (!start) continue;
        if (delivered + discarded_bytes != before) before = delivered + discarded_bytes, last = now();
        if (finished && (total_deliveries(all) >= expected || now() - last > option.drain * 1e9)) break;
        if (option.rest) usleep(option.rest * 1000);
    }
    double span = last > start ? (last - start) / 1e9 : 0;
    printf("{\"published\": %lu, \"refused\": %lu, \"delivered\": %lu, \"expected\": %lu, \"closed\": %d, \"seconds\": %.4f, "
           "\"cpu_s\": %.4f, \"latency_ms\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}}\n",
           published, refused, total_deliveries(all), expected, closed, span, cpu_seconds() - cpu, milliseconds(&latency, 0.5), milliseconds(&latency, 0.99),
           latency.longest / 1000.0);
    return 0;
}
