/* Feeds a fuzz target every file below the directories named on the command line: what a fuzzer once found
 * stays found. Fails when there is nothing to feed. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
        FILE *file = fopen(path, "re");
        if (!file)
                return -errno;
        static uint8_t bytes[8 * 1024 * 1024];
        size_t size = fread(bytes, 1, sizeof(bytes), file);
        fclose(file);
        uint8_t *exact = malloc(size);
        for (size_t i = 0; i < size; i++)
                exact[i] = bytes[i];
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        return 0;
}

int main(int argc, char **argv) {
        unsigned n = 0;
        for (int i = 1; i < argc; i++) {
                DIR *directory = opendir(argv[i]);
                struct dirent *entry;
                while (directory && (entry = readdir(directory))) {
                        char path[4096];
                        if (entry->d_name[0] == '.')
                                continue;
                        snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
                        if (replay_file(path) < 0) {
                                fprintf(stderr, "cannot read %s\n", path);
                                return 1;
                        }
                        n++;
                }
                if (directory)
                        closedir(directory);
        }
        printf("%u inputs\n", n);
        return n > 0 ? 0 : 1;
}
