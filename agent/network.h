/* The real network behind the hall's table (outside.h): peers/, one function deep. */
#pragma once

#include "outside.h"
#include "peers/peers.h"

typedef struct Network {
        Peers *peers;
        unsigned n_listen;
        char (*listen)[LIMIT_ADDRESS_BYTES + 1];
} Network;

/* Fills the network's part of the table; `userdata` of the table has to lead to the Network by network_of().
 */
void network_table(Outside *outside);
Network *network_of(void *userdata); /* loop.c */
