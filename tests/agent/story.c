/* Stories of the hall: text files in which each line that begins with "> " is a command to a few whole
 * hosts, and the lines below it are what came of it, word for word. A story shows one rule at work; reading
 * it is reading the rule. The hosts are real (hall, core, log, tree); network, disks, machines and clocks
 * are those of the simulation (tests/sim), and its ghost looks on: a promise broken ends the story.
 *
 *      story [-v] FILE…        compare
 *      story --rewrite FILE…   write down what happens now, to be reviewed as a diff
 *
 * Hosts are h1, h2 …; `leader` is whoever leads, `other` the first voter that does not, `all` is all of
 * them. A command waits for its answer; with `&` at the end it does not, and the answer is told when it
 * comes. Times are like 2s or 300ms.
 *
 *      hosts N [VOTERS]                    N machines, nothing runs; at most so many voters
 *      cluster N [VOTERS]                  … and all are in one cluster, founded by h1
 *      found H                             its agent starts, in a cluster of one
 *      token H [leaf] [uses N] [for TIME]  the story's token from here on
 *      join H [discard] [wrong]            starts it if need be
 *      run TIME | start H… | stop H…       a planned stop
 *      kill H… | powercut H…               kill -9; the machine, too
 *      image H                             its disk is copied, as it is now
 *      restore H                           of a host that is down: that copy comes back
 *      wipe H                              of a host that is down: its state directory is moved away
 *      rot H                               of a host that is down: bytes in the middle of its log flip
 *      rot-log H                           … and all of its log
 *      rot-tree H | lose-tree H            of a host that is down: its tree file's head flips, is gone
 *      upgrade H                           runs a newer version, and writes what needs one
 *      spoil H                             a bit of its tree's digest turns in memory
 *      diverge H PATH                      its tree goes back to what PATH held before, and nothing shows
 *      accept H                            starts it, and its log is taken as it is, damaged or not
 *      cut H | cut A -> B | heal           the network
 *      pause H TIME | stall-disk H TIME    nothing of it moves; its log does not
 *      full H | room H                     no space left for its log, space again
 *      set|create H PATH VALUE [within TIME] | delete H PATH [within TIME]
 *      flood H PATH N BYTES [KEYS]         N writes in all, over so many entries (default 1)
 *      get H PATH | linearizable H PATH | list H [SUBTREE]
 *      watch H SUBTREE [from REVISION] | unwatch H
 *      own H PATH VALUE tag TAG | disown H TAG | owned H
 *      remove H MEMBER | transfer H [TO]
 *      presume H TERM                      it campaigns by force, and says that it leads, though it may not:
 *                                          it promotes, lets sessions live for an hour, refuses
 *                                          the oldest write for good, and knows a newer start of everybody
 *      outcome H VALUE                     what became of the write of VALUE? (of the last one)
 *      history PATH                        all that ever held there, as the ghost saw it
 *      sessions-last TIME                  of hosts that are started from now on
 *      session H                           is it certain to live?
 *      members H                           how far each has applied the log, as far as H can know
 *      log H                               the first index its log still has, coarsely: whole or trimmed
 *      show [H…]
 *      quiet COMMAND                       without what happens meanwhile */
#include "story.h"

#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Commands ---- */

static SimHost *host_named(const char *name) {
        SimHost *leader = host_leader();
        if (strcmp(name, "leader") == 0)
                return leader;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (strcmp(name, host->name) == 0 ||
                    (strcmp(name, "other") == 0 && host->agent && host != leader && leader &&
                     conf_is_voter(leader->agent->raft_status.conf, host->id)))
                        return host;
        }
        return NULL;
}

static bool is_one_of(const char *word, const char *const *words) {
        for (; *words; words++)
                if (strcmp(word, *words) == 0)
                        return true;
        return false;
}

/* Commands to one host after the other. */
static bool run_on_each(const char *verb, SimHost *host) {
        bool up = host->agent != NULL;
        if (strcmp(verb, "show") == 0)
                tell_show(host);
        else if (strcmp(verb, "start") == 0 && !up)
                host_start(host);
        else if (strcmp(verb, "stop") == 0 && up)
                machine_stop(host);
        else if (strcmp(verb, "kill") == 0 && up)
                host_kill(host, false);
        else if (strcmp(verb, "powercut") == 0)
                host_kill(host, true);
        else if (strcmp(verb, "image") == 0)
                machine_copy(host);
        else if (strcmp(verb, "restore") == 0 && !up && story.images[host->i])
                machine_restore(host);
        else if (strcmp(verb, "wipe") == 0 && !up)
                machine_wipe(host);
        else if (strcmp(verb, "accept") == 0 && !up) {
                host->accept_damage = true;
                host_start(host);
                host->accept_damage = false;
        } else if (strcmp(verb, "rot") == 0 && !up)
                machine_rot(host);
        else if (strcmp(verb, "rot-log") == 0 && !up)
                machine_rot_log(host);
        else if (strcmp(verb, "rot-tree") == 0 && !up)
                machine_rot_tree(host, false);
        else if (strcmp(verb, "lose-tree") == 0 && !up)
                machine_rot_tree(host, true);
        else if (strcmp(verb, "found") == 0)
                machine_found(host);
        else if (strcmp(verb, "spoil") == 0 && up)
                machine_spoil(host);
        else if (strcmp(verb, "upgrade") == 0) {
                host->newer++;
                world.newer = MAX(world.newer, host->newer);
                if (up)
                        host->agent->options.newer = host->newer;
        } else if (strcmp(verb, "full") == 0)
                simdisk_set_room(host->disk, simdisk_used(host->disk));
        else if (strcmp(verb, "room") == 0)
                simdisk_set_room(host->disk, UINT64_MAX);
        else if (strcmp(verb, "unwatch") == 0)
                tell_watch_end(host);
        else
                return false;
        return true;
}

static bool run_on_all(const char *verb, char **names, size_t n) {
        SimHost *chosen[HOSTS_MAX]; /* before any of them changes who leads */
        size_t n_chosen = 0;
        bool all = n == 0 || strcmp(names[0], "all") == 0;
        for (unsigned i = 0; all && i < world.n_hosts; i++)
                chosen[n_chosen++] = world.hosts[i];
        for (size_t i = 0; !all && i < n && n_chosen < HOSTS_MAX; i++)
                if ((chosen[n_chosen] = host_named(names[i])))
                        n_chosen++;
        bool right = n_chosen > 0;
        for (size_t i = 0; i < n_chosen; i++)
                right &= run_on_each(verb, chosen[i]);
        return right;
}

/* Commands to one host with more words behind it. */
static bool run_on_host(const char *verb, SimHost *host, char **w, size_t n, Wish **ret_wish) {
        uint64_t within = n >= 2 && strcmp(w[n - 2], "within") == 0 ? time_of(w[n - 1]) : 0;
        if (within)
                n -= 2;
        else
                within = REQUEST_TIMEOUT_USEC;

        if (n == 2 && (strcmp(verb, "set") == 0 || strcmp(verb, "create") == 0))
                *ret_wish = wish_write(host, verb, w[0], w[1], within);
        else if (n == 0 && strcmp(verb, "session") == 0) {
                uint64_t until, generation = sessions_certain(host->agent, &until);
                if (generation != 0)
                        tell("%s: session %" PRIu64 " is certain for another %.1f s", host->name, generation,
                             (double)(until - host_now(host)) / SEC);
                else
                        tell("%s: no session is certain", host->name);
        } else if (n == 1 && strcmp(verb, "diverge") == 0)
                return machine_diverge(host, w[0]);
        else if (n == 1 && strcmp(verb, "delete") == 0)
                *ret_wish = wish_write(host, verb, w[0], "", within);
        else if (n == 1 && (strcmp(verb, "get") == 0 || strcmp(verb, "linearizable") == 0))
                *ret_wish = wish_read(host, verb, w[0]);
        else if (n >= 3 && strcmp(verb, "flood") == 0)
                wish_flood(host, w[0], strtoull(w[1], NULL, 10), strtoull(w[2], NULL, 10),
                           n > 3 ? (unsigned)strtoul(w[3], NULL, 10) : 1);
        else if (strcmp(verb, "token") == 0)
                *ret_wish = wish_token(host, w, n);
        else if (strcmp(verb, "join") == 0)
                *ret_wish = wish_join(host, w, n);
        else if (n == 4 && strcmp(verb, "own") == 0)
                *ret_wish = wish_own(host, w[0], w[1], w[3]);
        else if (n == 1 && strcmp(verb, "disown") == 0)
                tell("%u end", agent_disown(host->agent, w[0]));
        else if (strcmp(verb, "owned") == 0)
                (void)agent_owned(host->agent, tell_owned, host);
        else if (n == 1 && strcmp(verb, "remove") == 0 && host_named(w[0]))
                *ret_wish = wish_admin(host, verb, host_named(w[0])->id);
        else if (strcmp(verb, "transfer") == 0)
                *ret_wish = wish_admin(host, verb, n > 0 && host_named(w[0]) ? host_named(w[0])->id : 0);
        else if (n >= 1 && strcmp(verb, "watch") == 0)
                tell_watch(host, w[0], n == 3 ? strtoull(w[2], NULL, 10) : 0);
        else if (n == 1 && strcmp(verb, "outcome") == 0)
                tell_outcome(host, w[0]);
        else if (n == 1 && strcmp(verb, "presume") == 0)
                wish_presume(host, strtoull(w[0], NULL, 10));
        else if (n == 1 && strcmp(verb, "pause") == 0)
                host_pause(host, time_of(w[0]));
        else if (n == 1 && strcmp(verb, "stall-disk") == 0)
                host->stalled_until = world.now + time_of(w[0]);
        else if (strcmp(verb, "list") == 0) {
                bool more;
                (void)agent_list(host->agent, n > 0 ? w[0] : "/", "", 0, 100, SIZE_MAX, tell_entry, host,
                                 &more);
        } else if (strcmp(verb, "members") == 0)
                *ret_wish = wish_members(host);
        else if (strcmp(verb, "log") == 0)
                tell("%s: %s", host->name,
                     host->agent->raft_status.base_index > 0 ? "its log begins later" : "its log is whole");
        else if (n == 2 && strcmp(verb, "cut") == 0 && host_named(w[1]))
                machine_cut(host->i, host_named(w[1])->i);
        else if (strcmp(verb, "cut") == 0)
                machine_cut_off(host);
        else
                return false;
        return true;
}

static bool run(char *line) {
        static const char *const to_each[] = {"show",  "start",   "stop",     "kill",      "powercut",
                                              "image", "restore", "wipe",     "rot",       "accept",
                                              "found", "rot-log", "rot-tree", "lose-tree", "full",
                                              "room",  "upgrade", "spoil",    "unwatch",   NULL};
        static const char *const to_open[] = {"hosts", "cluster", NULL};
        char *words[WORDS_MAX], *save = NULL;
        size_t n = 0;
        story.quiet = strncmp(line, "quiet ", 6) == 0;
        for (char *word = strtok_r(line + (story.quiet ? 6 : 0), " ", &save); word && n < WORDS_MAX;
             word = strtok_r(NULL, " ", &save))
                words[n++] = word;
        bool wait = n > 0 && strcmp(words[n - 1], "&") != 0;
        if (n > 0 && !wait)
                n--;
        if (n == 0)
                return false;
        if (is_one_of(words[0], to_open) && n >= 2 && world.n_hosts == 0) {
                unsigned voters = n > 2 ? (unsigned)strtoul(words[2], NULL, 10) : 0;
                (*words[0] == 'h' ? machines_bare : machines_cluster)((unsigned)strtoul(words[1], NULL, 10),
                                                                      voters);
                return true;
        }
        if (is_one_of(words[0], to_each))
                return run_on_all(words[0], words + 1, n - 1);
        if (strcmp(words[0], "heal") == 0)
                machines_heal();
        else if (strcmp(words[0], "run") == 0 && n == 2)
                run_for(time_of(words[1]));
        else if (strcmp(words[0], "sessions-last") == 0 && n == 2)
                world.session_usec = time_of(words[1]); /* of those that are started from now on */
        else if (strcmp(words[0], "history") == 0 && n == 2)
                tell_history(words[1]);
        else {
                SimHost *host = n >= 2 ? host_named(words[1]) : NULL;
                Wish *wish = NULL;
                if (!host ||
                    (!host->agent && strcmp(words[0], "join") != 0 && strcmp(words[0], "cut") != 0) ||
                    !run_on_host(words[0], host, words + 2, n - 2, &wish))
                        return false;
                if (wish && wait && !run_until(&wish->answered))
                        tell("no answer");
        }
        return true;
}

/* ---- Files ---- */

/* The file with everything below its commands as it is now; in a process of its own. */
static _Noreturn void tell_story(const char *path, FILE *out, bool verbose) {
        FILE *in = fopen(path, "r");
        if (!in)
                _exit(SIM_USAGE);
        setvbuf(out, NULL, _IOLBF, 0);
        story.out = out;
        world_begin(1, 0, verbose);

        char line[4096];
        bool in_output = false;
        while (fgets(line, sizeof(line), in)) {
                line[strcspn(line, "\n")] = 0;
                if (in_output && strncmp(line, "  ", 2) == 0)
                        continue;
                in_output = strncmp(line, "> ", 2) == 0;
                fprintf(out, "%s\n", line);
                if (!in_output)
                        continue;
                if (verbose)
                        note("%s", line);
                if (!run(line + 2))
                        fputs("  no such command, or the host is down\n", out);
        }
        fclose(in);
        fflush(out);
        finish(SIM_HELD);
}

static char *read_all(FILE *file) {
        char *text = NULL, chunk[4096];
        size_t size, n;
        FILE *copy = open_memstream(&text, &size);
        assert(copy);
        while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
                (void)fwrite(chunk, 1, n, copy);
        fclose(copy);
        return text;
}

static int say_difference(const char *path, const char *before, const char *after) {
        int line = 1;
        const char *b = before, *a = after;
        for (; *b && *b == *a; a++, b++)
                if (*b == '\n') {
                        line++;
                        before = b + 1;
                        after = a + 1;
                }
        fprintf(stderr, "%s:%d: the story goes otherwise\n  written: %.*s\n  happens: %.*s\n", path, line,
                (int)strcspn(before, "\n"), before, (int)strcspn(after, "\n"), after);
        return 1;
}

static int compare(const char *path, bool rewrite, bool verbose) {
        FILE *in = fopen(path, "r"), *out = tmpfile();
        if (!in || !out) {
                fprintf(stderr, "%s: cannot be read\n", path);
                return 1;
        }
        _cleanup_(freep) char *before = read_all(in);
        fclose(in);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
                tell_story(path, out, verbose);
        int status = 0;
        (void)waitpid(pid, &status, 0);
        rewind(out);
        _cleanup_(freep) char *after = read_all(out);
        fclose(out);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != SIM_HELD) {
                fprintf(stderr, "%s: ends too early\n%s", path, after);
                return 1;
        }
        if (strcmp(before, after) == 0)
                return 0;
        FILE *new = rewrite ? fopen(path, "w") : NULL;
        if (!new)
                return say_difference(path, before, after);
        fputs(after, new);
        fclose(new);
        return 0;
}

int main(int argc, char **argv) {
        bool rewrite = false, verbose = false;
        int failed = 0;
        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--rewrite") == 0)
                        rewrite = true;
                else if (strcmp(argv[i], "-v") == 0)
                        verbose = true;
                else
                        failed |= compare(argv[i], rewrite, verbose);
        return failed;
}
