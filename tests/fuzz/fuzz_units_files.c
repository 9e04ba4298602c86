/* The helper's files: any bytes as a unit's own section, and as the record of what was handled. A record
 * that is read is read back the same after it was saved. The first byte chooses. */
#include "place.h"

#include "units/section.h"
#include "units/state.h"

static void poke_section(FuzzReader in) {
        static const UnitFileNames names = {
                .unit = "web@a.service", .host_name = "h1", .machine_id = "0123"};
        Section section, again;
        section_init(&section);
        section_init(&again);
        size_t half = in.size / 2;
        must(section_feed(&section, &names, "/etc/a.service", BYTES(in.data, in.size)) == 0);
        must(section_feed(&section, &names, "/etc/a.service.d/b.conf", BYTES(in.data, half)) == 0);
        must(section_finish(&section) == 0);
        must(section_feed(&again, &names, "/etc/a.service", BYTES(in.data, in.size)) == 0);
        must(section_feed(&again, &names, "/etc/a.service.d/b.conf", BYTES(in.data, half)) == 0);
        must(section_finish(&again) == 0 && section_equal(&section, &again));
        if (section.mistake)
                must(section.where);
        section_deinit(&section);
        section_deinit(&again);
}

static void poke_state(FuzzReader in) {
        static State state, again;
        place_write("a.service", in.data, in.size);
        int fd = open(place(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = state_load(&state, fd, "a.service");
        must(r == 0 || r == 1);
        if (r == 0) {
                must(state.n <= SECTION_MAX_PATHS && state.cluster[0]);
                must(state_save(&state, fd, "a.service") == 0 && state_load(&again, fd, "a.service") == 0);
                must(again.n == state.n && strcmp(again.cluster, state.cluster) == 0);
                for (size_t i = 0; i < state.n; i++)
                        must(state.handled[i].revision == again.handled[i].revision &&
                             strcmp(state.handled[i].path, again.handled[i].path) == 0);
        }
        close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        if (fuzz_u8(&in) & 1)
                poke_state(in);
        else
                poke_section(in);
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        static const char section[] =
                "\2[Unit]\nA=b\n[X-Treaty]\nWatch=/config/%i /b\nOnChange=restart\nSettleSec=2s\n"
                "Service=%p\nPort=80\nPriority=1\nWeight=2\nAddress=10.0.0.1\nText=a b \"c d\"\n"
                "Property=k=v\nNew=1\nWatch=\nWatch=/c\n";
        static const char state[] =
                "\1treaty-units 1\ncluster 5b1f\nhandled 412 /config/web\nhandled 9 /b\nend\n";
        seed("section", section, sizeof(section) - 1);
        seed("state", state, sizeof(state) - 1);
}
