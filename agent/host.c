/* Who this host is: its id, minted once at random, and the machine for which it was minted. A copied disk
 * comes up on another machine and is refused; two hosts with one id would be two votes of one voter. The
 * file is small text, replaced as a whole: written aside, synced, renamed, directory synced. */
#include "hall.h"

#include <stdio.h>
#include <string.h>

#define HOST_FILE     "host"
#define HOST_FILE_NEW "host.new"

static int number_parse(const char *text, uint64_t *ret) {
        uint8_t bytes[8];
        if (hex_read(text, bytes, sizeof(bytes)) < 0)
                return -EBADMSG;
        *ret = 0;
        for (size_t i = 0; i < sizeof(bytes); i++)
                *ret = *ret << 8 | bytes[i];
        return 0;
}

static int host_parse(char *text, HostFile *ret) {
        HostFile host = {};
        bool version = false, machine = false;

        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
             line = strtok_r(NULL, "\n", &save)) {
                if (strcmp(line, "Version=1") == 0)
                        version = true;
                else if (strncmp(line, "HostId=", 7) == 0) {
                        if (number_parse(line + 7, &host.id) < 0)
                                return -EBADMSG;
                } else if (strncmp(line, "Start=", 6) == 0) {
                        if (number_parse(line + 6, &host.start) < 0)
                                return -EBADMSG;
                } else if (strncmp(line, "MachineId=", 10) == 0)
                        machine = hex_read(line + 10, host.machine, sizeof(host.machine)) >= 0;
                else if (strncmp(line, "Switch=", 7) == 0)
                        snprintf(host.switching, sizeof(host.switching), "%s", line + 7);
                else if (strcmp(line, "Quarantined=yes") == 0)
                        host.quarantined = true;
                else if (strcmp(line, "Listen=yes") == 0)
                        host.listen = true;
                else if (strcmp(line, "Listen=no") != 0)
                        return -EBADMSG;
        }
        if (!version || !machine || host.id == 0)
                return -EBADMSG;
        *ret = host;
        return 0;
}

int state_file_read(Disk *disk, const char *name, char *to, size_t room) {
        DiskFile *file = NULL;
        int r = disk->ops->open(disk, name, false, &file);
        if (r < 0)
                return r;
        int64_t n = disk->ops->read(file, to, room - 1, 0);
        disk->ops->close(file);
        if (n < 0)
                return (int)n;
        to[n] = 0;
        return (int)n;
}

int state_file_replace(Disk *disk, const char *name, const char *aside, const char *text, size_t size) {
        DiskFile *file = NULL;
        int r = disk->ops->open(disk, aside, true, &file);
        if (r < 0)
                return r;
        r = disk->ops->truncate(file, 0);
        if (r >= 0)
                r = disk->ops->write(file, text, size, 0);
        if (r >= 0)
                r = disk->ops->sync(file);
        disk->ops->close(file);
        if (r >= 0)
                r = disk->ops->rename(disk, aside, name);
        if (r >= 0)
                r = disk->ops->sync_directory(disk);
        return r < 0 ? r : 0;
}

int host_file_load(Disk *disk, HostFile *ret) {
        char text[1024];
        int r = state_file_read(disk, HOST_FILE, text, sizeof(text));
        if (r == -ENOENT)
                return 1;
        if (r < 0)
                return r;
        return host_parse(text, ret);
}

int host_file_save(Disk *disk, const HostFile *host) {
        char machine[33], start[32] = "", text[256];
        if (host->start != 0)
                snprintf(start, sizeof(start), "Start=%016llx\n", (unsigned long long)host->start);
        int n = snprintf(
                text, sizeof(text), "Version=1\nHostId=%016llx\nMachineId=%s\nListen=%s\n%s%s%s%s%s",
                (unsigned long long)host->id, hex_write(machine, host->machine, sizeof(host->machine)),
                host->listen ? "yes" : "no", host->switching[0] ? "Switch=" : "", host->switching,
                host->switching[0] ? "\n" : "", host->quarantined ? "Quarantined=yes\n" : "", start);

        return state_file_replace(disk, HOST_FILE, HOST_FILE_NEW, text, (size_t)n);
}
