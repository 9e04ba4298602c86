/* polkit, for administration by people who are not root. Asked asynchronously, about the caller (never about
 * ourselves), never cached, and never failing open: where polkit is not there, does not answer or answers
 * nonsense, the answer is no. */
#pragma once

#include <systemd/sd-bus.h>
#include "agent/base/macros.h"

#define POLKIT_MANAGE_CLUSTER "org.treaty1.manage-cluster"

typedef enum PolkitVerdict {
        POLKIT_YES,
        POLKIT_NO,
        POLKIT_CHALLENGE, /* yes, if the caller allows a dialog with its user */
        POLKIT_ABSENT,    /* no polkit here */
} PolkitVerdict;

/* Is `sender` (a unique name) allowed `action`? `done` gets the reply for polkit_read(). */
int polkit_ask(sd_bus *bus, const char *sender, const char *action, bool interactive,
               sd_bus_message_handler_t done, void *userdata, sd_bus_slot **ret);
PolkitVerdict polkit_read(sd_bus_message *reply);
