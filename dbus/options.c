/* See options.h. */
#include "options.h"

#include <stdio.h>
#include <string.h>
#include "agent/base/limits.h"

char **strv_free(char **strv) {
        for (char **s = strv; s && *s; s++)
                free(*s);
        free(strv);
        return NULL;
}

static const char *signature(char type) {
        switch (type) {
        case 't':
                return "t";
        case 'u':
                return "u";
        case 'q':
                return "q";
        case 's':
                return "s";
        case 'S':
                return "as";
        case 'D':
                return "a{ss}";
        }
        assert(!"unreachable");
        return NULL;
}

static int append_string(sd_bus_message *m, char ***strv, size_t *n) {
        const char *text;

        int r = sd_bus_message_read_basic(m, 's', &text);
        if (r <= 0)
                return r;
        if (*n >= LIMIT_SERVICE_STRINGS)
                return -E2BIG;
        char **more = realloc(*strv, (*n + 2) * sizeof(char *));
        if (!more)
                return -ENOMEM;
        *strv = more;
        more[*n] = strdup(text);
        if (!more[*n])
                return -ENOMEM;
        more[++*n] = NULL;
        return 1;
}

static int read_strings(sd_bus_message *m, char ***ret) {
        _cleanup_(strv_freep) char **strv = calloc(1, sizeof(char *));
        size_t n = 0;

        if (!strv)
                return -ENOMEM;
        int r = sd_bus_message_enter_container(m, 'a', "s");
        if (r < 0)
                return r;
        while ((r = append_string(m, &strv, &n)) > 0)
                ;
        if (r < 0)
                return r;
        *ret = TAKE(strv);
        return sd_bus_message_exit_container(m);
}

static int read_dictionary(sd_bus_message *m, char ***ret) {
        _cleanup_(strv_freep) char **strv = calloc(1, sizeof(char *));
        size_t n = 0;

        if (!strv)
                return -ENOMEM;
        int r = sd_bus_message_enter_container(m, 'a', "{ss}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "ss")) > 0)
                if ((r = append_string(m, &strv, &n)) < 0 || (r = append_string(m, &strv, &n)) < 0 ||
                    (r = sd_bus_message_exit_container(m)) < 0)
                        return r;
        if (r < 0)
                return r;
        *ret = TAKE(strv);
        return sd_bus_message_exit_container(m);
}

static int read_value(sd_bus_message *m, const Option *option) {
        int r = sd_bus_message_enter_container(m, 'v', signature(option->type));
        if (r < 0)
                return r;
        if (option->type == 'S')
                r = read_strings(m, option->ret);
        else if (option->type == 'D')
                r = read_dictionary(m, option->ret);
        else
                r = sd_bus_message_read_basic(m, option->type, option->ret);
        if (r < 0)
                return r;
        return sd_bus_message_exit_container(m);
}

static int read_option(sd_bus_message *m, const Option *options, size_t n, uint64_t *seen, char *text,
                       size_t size) {
        const char *name, *type;

        int r = sd_bus_message_read_basic(m, 's', &name);
        if (r < 0)
                return r;
        size_t i = 0;
        while (i < n && strcmp(options[i].name, name) != 0)
                i++;
        if (i == n) {
                snprintf(text, size, "The option \"%.64s\" is not known to this method.", name);
                return 1;
        }
        if (*seen & UINT64_C(1) << i) {
                snprintf(text, size, "The option \"%s\" is given twice.", name);
                return 1;
        }
        *seen |= UINT64_C(1) << i;
        r = sd_bus_message_peek_type(m, NULL, &type);
        if (r < 0)
                return r;
        if (strcmp(type, signature(options[i].type)) != 0) {
                snprintf(text, size, "The option \"%s\" is of type %.32s, but must be of type %s.", name,
                         type, signature(options[i].type));
                return 1;
        }
        r = read_value(m, &options[i]);
        if (r == -E2BIG) {
                snprintf(text, size, "The option \"%s\" has more than %d strings.", name,
                         LIMIT_SERVICE_STRINGS);
                return 1;
        }
        if (r < 0)
                return r;
        if (options[i].ret_given)
                *options[i].ret_given = true;
        return 0;
}

int options_read(sd_bus_message *m, const Option *options, size_t n, char *text, size_t size) {
        uint64_t seen = 0;

        assert(n <= LIMIT_OPTIONS);
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = read_option(m, options, n, &seen, text, size);
                if (r != 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        return r < 0 ? r : 0;
}
