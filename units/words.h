/* A list of strings that owns them. */
#pragma once

#include <string.h>
#include "agent/base/macros.h"
#include "agent/base/path.h"

/* A text that was cut to fit may end within a character, and D-Bus would refuse all of the message. */
static inline void text_mend(char *text) {
        if (utf8_is_valid(text, strlen(text)))
                return;
        for (char *p = text; *p; p++)
                if ((unsigned char)*p >= 0x80)
                        *p = '?';
}

typedef struct Words {
        size_t n;
        char **items;
} Words;

static inline void words_clear(Words *words) {
        for (size_t i = 0; i < words->n; i++)
                free(words->items[i]);
        free(words->items);
        *words = (Words){};
}

static inline int words_add(Words *words, const char *word) {
        char **items = reallocarray(words->items, words->n + 1, sizeof(char *));
        if (!items)
                return -ENOMEM;
        words->items = items;
        items[words->n] = strdup(word);
        if (!items[words->n])
                return -ENOMEM;
        words->n++;
        return 0;
}

static inline bool words_has(const Words *words, const char *word) {
        for (size_t i = 0; i < words->n; i++)
                if (strcmp(words->items[i], word) == 0)
                        return true;
        return false;
}
