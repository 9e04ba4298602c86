/* Feeds a fuzz target its corpus: what a fuzzer once found stays found. Then each seed cut short at every
 * length, and each seed with one byte turned, until the time is up.
 *
 *      replay_X [--seconds N] DIRECTORY…      exit status 1 when there is nothing to feed
 *      replay_X --write DIRECTORY             writes the target's seeds */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define INPUT_BYTES (8 * 1024 * 1024)
#define INPUTS      4096

typedef struct Input {
        uint8_t *data;
        size_t size;
} Input;

static Input inputs[INPUTS];
static unsigned n_inputs, n_runs;
static const char *to_directory;

static void write_seed(const char *name, const void *data, size_t size) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", to_directory, name);
        FILE *file = fopen(path, "we");
        if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
                fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
                exit(1);
        }
}

static void take_file(const char *path) {
        FILE *file = fopen(path, "re");
        if (!file || n_inputs == INPUTS) {
                fprintf(stderr, "cannot read %s\n", path);
                exit(1);
        }
        uint8_t *data = malloc(INPUT_BYTES);
        must(data);
        size_t size = fread(data, 1, INPUT_BYTES, file);
        fclose(file);
        uint8_t *exact = realloc(data, size ? size : 1);
        inputs[n_inputs++] = (Input){.data = exact ? exact : data, .size = size};
}

static void take_directory(const char *path) {
        struct dirent **entries;
        int n = scandir(path, &entries, NULL, alphasort);
        for (int i = 0; i < n; i++) {
                char file[4096];
                snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
                if (entries[i]->d_name[0] != '.')
                        take_file(file);
                free(entries[i]);
        }
        if (n >= 0)
                free(entries);
}

/* In a piece of memory of just that size: a read past its end is seen. */
static void feed(const uint8_t *data, size_t size) {
        uint8_t *exact = malloc(size ? size : 1);
        must(exact);
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        n_runs++;
}

static double now(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Spread over all lengths and places first, so that little time still sees all of them. */
static void vary(double seconds) {
        double end = now() + seconds;
        for (size_t step = 1024; step > 0; step /= 4)
                for (unsigned i = 0; i < n_inputs; i++)
                        for (size_t at = step / 2; at < inputs[i].size; at += step) {
                                if (now() > end)
                                        return;
                                feed(inputs[i].data, at);
                                uint8_t turned = (uint8_t)(1u << (at * 2654435761u >> 13 & 7));
                                inputs[i].data[at] ^= turned;
                                feed(inputs[i].data, inputs[i].size);
                                inputs[i].data[at] ^= turned;
                        }
}

int main(int argc, char **argv) {
        double seconds = 0;
        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
                        seconds = atof(argv[++i]);
                else if (strcmp(argv[i], "--write") == 0 && i + 1 < argc) {
                        to_directory = argv[++i];
                        fuzz_seeds(write_seed);
                        return 0;
                } else
                        take_directory(argv[i]);

        for (unsigned i = 0; i < n_inputs; i++)
                feed(inputs[i].data, inputs[i].size);
        vary(seconds);
        for (unsigned i = 0; i < n_inputs; i++)
                free(inputs[i].data);
        printf("%u inputs, %u runs\n", n_inputs, n_runs);
        return n_inputs > 0 ? 0 : 1;
}
