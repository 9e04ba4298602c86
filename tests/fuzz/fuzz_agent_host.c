/* Any bytes as the host file: refused, or read back the same after it was written again. */
#include "fuzz.h"

#include <string.h>
#include "agent/hall.h"
#include "tests/log/simdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        SimDisk *sim = simdisk_new(1);
        Disk *disk = simdisk_disk(sim);
        DiskFile *file;
        HostFile host, again;
        must(disk->ops->open(disk, "host", true, &file) == 0 && disk->ops->write(file, data, size, 0) == 0);
        disk->ops->close(file);
        int r = host_file_load(disk, &host);
        must(r == 0 || r == -EBADMSG);
        if (r == 0) {
                must(host.id != 0 &&
                     strnlen(host.switching, sizeof(host.switching)) < sizeof(host.switching));
                must(host_file_save(disk, &host) == 0 && host_file_load(disk, &again) == 0);
                must(again.id == host.id && again.listen == host.listen &&
                     memcmp(again.machine, host.machine, 16) == 0 &&
                     strcmp(again.switching, host.switching) == 0);
        }
        simdisk_free(sim);
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        static const char *const files[] = {
                "Version=1\nHostId=00000000000000ff\nMachineId=00112233445566778899aabbccddeeff\nListen=no\n",
                "Version=1\nHostId=fef611dacb021cd7\nMachineId=00112233445566778899aabbccddeeff\nListen=yes\n"
                "Switch=tree-0000000000000000-00000001.db\n"};
        seed("plain", files[0], strlen(files[0]));
        seed("switching", files[1], strlen(files[1]));
}
