/* Every rule of the guard, asked as root, as a local user on the bus and on the private socket, as the
 * agent's own user, and as nobody knows whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "policy/guard.h"

static const Caller root = {.known = true, .uid = 0};
static const Caller user_bus = {.known = true, .on_bus = true, .uid = 1000};
static const Caller user_private = {.known = true, .uid = 1000};
static const Caller daemon_user = {.known = true, .on_bus = true, .uid = 987};
static const Caller unknown = {.uid = 0};

static void expect(const Caller *caller, GuardAction action, const char *path, GuardVerdict verdict) {
        assert_int_equal(guard_check(caller, action, path), verdict);
}

static void root_may_everything(void **state) {
        expect(&root, GUARD_READ, "/config/web", GUARD_ALLOW);
        expect(&root, GUARD_READ, "/", GUARD_ALLOW);
        expect(&root, GUARD_WRITE, "/config/web", GUARD_ALLOW);
        expect(&root, GUARD_OUTCOME, NULL, GUARD_ALLOW);
        expect(&root, GUARD_REGISTER_UNIT, NULL, GUARD_ALLOW);
        expect(&root, GUARD_CLUSTER_READ, NULL, GUARD_ALLOW);
        expect(&root, GUARD_CLUSTER_MANAGE, NULL, GUARD_ALLOW);
        expect(&root, GUARD_LOG_LEVEL, NULL, GUARD_ALLOW);
}

static void users_read_services_only(void **state) {
        const Caller *callers[] = {&user_bus, &user_private, &daemon_user};

        for (size_t i = 0; i < ELEMENTSOF(callers); i++) {
                expect(callers[i], GUARD_READ, "/services", GUARD_ALLOW);
                expect(callers[i], GUARD_READ, "/services/web/h1:80", GUARD_ALLOW);
                expect(callers[i], GUARD_READ, "/servicesx", GUARD_DENY);
                expect(callers[i], GUARD_READ, "/config/services", GUARD_DENY);
                expect(callers[i], GUARD_READ, "/", GUARD_DENY);
                expect(callers[i], GUARD_READ, NULL, GUARD_DENY);
                expect(callers[i], GUARD_WRITE, "/services/web/h1", GUARD_DENY);
                expect(callers[i], GUARD_OUTCOME, NULL, GUARD_DENY);
                expect(callers[i], GUARD_REGISTER_UNIT, NULL, GUARD_DENY);
                expect(callers[i], GUARD_CLUSTER_READ, NULL, GUARD_ALLOW);
                expect(callers[i], GUARD_LOG_LEVEL, NULL, GUARD_DENY);
        }
}

static void polkit_is_asked_only_about_bus_clients(void **state) {
        expect(&user_bus, GUARD_CLUSTER_MANAGE, NULL, GUARD_ASK);
        expect(&daemon_user, GUARD_CLUSTER_MANAGE, NULL, GUARD_ASK);
        expect(&user_private, GUARD_CLUSTER_MANAGE, NULL, GUARD_DENY);
}

static void the_unknown_may_nothing(void **state) {
        for (GuardAction action = GUARD_READ; action <= GUARD_LOG_LEVEL; action++)
                expect(&unknown, action, "/services", GUARD_DENY);
}

static void refusals_name_who_what_and_why(void **state) {
        char text[256];

        guard_explain(&user_bus, GUARD_READ, "/config/web", text, sizeof(text));
        assert_string_equal(text,
                            "User 1000 may not read /config/web: only root may read outside of /services, "
                            "which any local user may read.");
        guard_explain(&unknown, GUARD_WRITE, "/a", text, sizeof(text));
        assert_string_equal(text, "An unknown caller may not write /a: only root may write.");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(root_may_everything),
                cmocka_unit_test(users_read_services_only),
                cmocka_unit_test(polkit_is_asked_only_about_bus_clients),
                cmocka_unit_test(the_unknown_may_nothing),
                cmocka_unit_test(refusals_name_who_what_and_why),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
