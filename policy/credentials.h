/* Who is behind a unique name? sd-bus can tell, but blocks while it asks the bus; a consensus member must
 * not. So the question is asked asynchronously, once per name, and the answer belongs to whoever keeps it
 * until the name is gone. Behind a socket the kernel tells at once. */
#pragma once

#include <systemd/sd-bus.h>
#include "guard.h"

/* GetConnectionCredentials, asynchronously; `done` gets the reply for credentials_read(). */
int credentials_ask(sd_bus *bus, const char *name, sd_bus_message_handler_t done, void *userdata,
                    sd_bus_slot **ret);
/* 0, or why it cannot be known: -ESRCH (the name is gone), -EBADMSG, -EPROTO (any other refusal). */
int credentials_read(sd_bus_message *reply, Caller *ret);

/* The process that connected to a Unix socket (SO_PEERCRED, SO_PEERGROUPS). 0, -errno. */
int credentials_of_socket(int fd, Caller *ret);
