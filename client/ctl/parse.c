/* See parse.h. */
#include "parse.h"

#include <string.h>

static const struct {
        const char *name;
        uint64_t usec;
} units[] = {
        {"", USEC_PER_SEC},
        {"us", 1},
        {"usec", 1},
        {"ms", USEC_PER_MSEC},
        {"msec", USEC_PER_MSEC},
        {"s", USEC_PER_SEC},
        {"sec", USEC_PER_SEC},
        {"second", USEC_PER_SEC},
        {"seconds", USEC_PER_SEC},
        {"m", 60 * USEC_PER_SEC},
        {"min", 60 * USEC_PER_SEC},
        {"minute", 60 * USEC_PER_SEC},
        {"minutes", 60 * USEC_PER_SEC},
        {"h", 3600 * USEC_PER_SEC},
        {"hr", 3600 * USEC_PER_SEC},
        {"hour", 3600 * USEC_PER_SEC},
        {"hours", 3600 * USEC_PER_SEC},
        {"d", 24 * 3600 * USEC_PER_SEC},
        {"day", 24 * 3600 * USEC_PER_SEC},
        {"days", 24 * 3600 * USEC_PER_SEC},
        {"w", 7 * 24 * 3600 * USEC_PER_SEC},
        {"week", 7 * 24 * 3600 * USEC_PER_SEC},
        {"weeks", 7 * 24 * 3600 * USEC_PER_SEC},
};

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

static const char *skip_blanks(const char *p) {
        return p + strspn(p, " \t");
}

static int unit_usec(const char *name, size_t size, uint64_t *ret) {
        for (size_t i = 0; i < ELEMENTSOF(units); i++)
                if (strlen(units[i].name) == size && strncmp(units[i].name, name, size) == 0) {
                        *ret = units[i].usec;
                        return 0;
                }
        return -EINVAL;
}

/* Digits behind the point, in millionths; what is finer is dropped. */
static uint64_t read_fraction(const char **p) {
        uint64_t millionths = 0;
        unsigned n = 0;

        for (; is_digit(**p); (*p)++)
                if (n < 6) {
                        millionths = millionths * 10 + (uint64_t)(**p - '0');
                        n++;
                }
        for (; n < 6; n++)
                millionths *= 10;
        return millionths;
}

static int read_whole(const char **p, uint64_t *ret) {
        uint64_t n = 0;

        if (!is_digit(**p))
                return -EINVAL;
        for (; is_digit(**p); (*p)++)
                if (__builtin_mul_overflow(n, UINT64_C(10), &n) ||
                    __builtin_add_overflow(n, (uint64_t)(**p - '0'), &n))
                        return -ERANGE;
        *ret = n;
        return 0;
}

/* One number with its unit. */
static int read_part(const char **p, uint64_t *ret_usec) {
        uint64_t whole, millionths = 0, unit, usec;
        const char *name;
        size_t size;
        int r = read_whole(p, &whole);

        if (r < 0)
                return r;
        if (**p == '.') {
                (*p)++;
                if (!is_digit(**p))
                        return -EINVAL;
                millionths = read_fraction(p);
        }
        name = skip_blanks(*p);
        size = strcspn(name, " \t0123456789.");
        r = unit_usec(name, size, &unit);
        if (r < 0)
                return r;
        *p = skip_blanks(name + size);
        /* millionths < 10^6 and unit < 2^40: no overflow. */
        if (__builtin_mul_overflow(whole, unit, &usec) ||
            __builtin_add_overflow(usec, millionths * unit / 1000000, &usec))
                return -ERANGE;
        *ret_usec = usec;
        return 0;
}

int parse_span(const char *text, uint64_t *ret_usec) {
        const char *p = skip_blanks(text);
        uint64_t sum = 0, part;

        if (strcmp(p, "infinity") == 0) {
                *ret_usec = USEC_INFINITY;
                return 0;
        }
        do {
                int r = read_part(&p, &part);
                if (r < 0)
                        return r;
                if (__builtin_add_overflow(sum, part, &sum) || sum == USEC_INFINITY)
                        return -ERANGE;
        } while (*p);
        *ret_usec = sum;
        return 0;
}

int parse_number(const char *text, uint64_t max, uint64_t *ret) {
        uint64_t n;
        int r = read_whole(&text, &n);

        if (r < 0)
                return r;
        if (*text)
                return -EINVAL;
        if (n > max)
                return -ERANGE;
        *ret = n;
        return 0;
}
