/* Host sessions: one per host, with a generation that rises by a committed entry each time the host attaches
 * anew. What a generation owns ends in the revision that ends it, so that no entry ever outlives its owner's
 * session, and a late keep-alive or a second END_SESSION finds nothing to do.
 *
 * How long a session outlives its last keep-alive is its own: the host says it when it attaches, and so
 * every leader goes by the same. Another timeout (the operator changed it) needs no other generation, and
 * ends nothing. */
#include "internal.h"
#include "../base/seen.h"

#define SESSION_BYTES 25 /* u64 generation | u8 attached | u64 number of entries owned | u64 timeout */

int session_decode(Bytes key, Bytes body, Session *ret) {
        if (key.size != 8 || body.size != SESSION_BYTES || body.data[8] > 1)
                return TREE_ROTTEN;
        *ret = (Session){
                .generation = bytes_get_u64(body.data),
                .attached = body.data[8],
                .n_owned = bytes_get_u64(body.data + 9),
                .lasts_usec = bytes_get_u64(body.data + 17),
        };
        return 0;
}

int session_get(Tree *tree, uint64_t host, Session *ret) {
        uint8_t key[8];
        Bytes body;
        key_write(key, host);
        int r = record_get(tree, RECORD_SESSION, BYTES(key, 8), &body);
        return r != 0 ? r : session_decode(BYTES(key, 8), body, ret);
}

int session_put(Tree *tree, uint64_t host, const Session *session) {
        uint8_t key[8], body[SESSION_BYTES];
        key_write(key, host);
        bytes_put_u64(body, session->generation);
        body[8] = session->attached;
        bytes_put_u64(body + 9, session->n_owned);
        bytes_put_u64(body + 17, session->lasts_usec);
        return record_put(tree, RECORD_SESSION, BYTES(key, 8), BYTES(body, sizeof(body)));
}

int session_count(Tree *tree, uint64_t host, int delta) {
        Session session;
        int r = session_get(tree, host, &session);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r; /* who owns has a session */
        if (delta < 0 && session.n_owned == 0)
                return TREE_ROTTEN;
        session.n_owned += (uint64_t)(int64_t)delta;
        return session_put(tree, host, &session);
}

static int goes_on(Apply *apply, Session *session) {
        if (!session->attached || session->generation != apply->command->generation) {
                apply->result.status = RESULT_NO_SESSION;
                return 0;
        }
        session->lasts_usec = apply->command->lasts_usec;
        apply->result.number = session->generation;
        return session_put(apply->tree, apply->command->host, session);
}

int apply_attach(Apply *apply) {
        uint64_t host = apply->command->host;
        Session session = {};
        int r = session_get(apply->tree, host, &session);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (apply->command->generation != 0)
                return goes_on(apply, &session);
        r = entries_end_owned(apply, host);
        if (r != 0)
                return r;
        session = (Session){.generation = session.generation + 1,
                            .lasts_usec = apply->command->lasts_usec,
                            .attached = true};
        apply->result.number = session.generation;
        return session_put(apply->tree, host, &session);
}

int apply_end_session(Apply *apply) {
        const Command *command = apply->command;
        if (apply->class == MEMBER_LEAF && command->subject != command->host) {
                apply->result.status = RESULT_DENIED;
                return 0;
        }
        Session session;
        int r = session_get(apply->tree, command->subject, &session);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (r == TREE_NONE || !session.attached || session.generation != command->generation) {
                SIM_SEEN("tree: the end of a session that is over already");
                apply->result.status = RESULT_NO_SESSION;
                return 0;
        }
        r = entries_end_owned(apply, command->subject);
        if (r != 0)
                return r;
        session.attached = false;
        session.n_owned = 0;
        return session_put(apply->tree, command->subject, &session);
}

static TreeSession session_seen(uint64_t host, const Session *session) {
        return (TreeSession){.host = host,
                             .generation = session->generation,
                             .lasts_usec = session->lasts_usec,
                             .attached = session->attached};
}

int tree_session(Tree *tree, uint64_t host, TreeSession *ret) {
        Session session;
        int r = session_get(tree, host, &session);
        if (r == 0)
                *ret = session_seen(host, &session);
        return r;
}

typedef struct SessionVisit {
        int (*each)(const TreeSession *session, void *userdata);
        void *userdata;
        int stopped;
} SessionVisit;

static int session_visit(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        SessionVisit *visit = userdata;
        Session session;
        int r = session_decode(key, body, &session);
        if (r != 0)
                return r;
        TreeSession seen = session_seen(key_read(key.data), &session);
        visit->stopped = visit->each(&seen, visit->userdata);
        return visit->stopped != 0 ? TREE_NONE : 0;
}

int tree_sessions(Tree *tree, int (*each)(const TreeSession *session, void *userdata), void *userdata) {
        SessionVisit visit = {.each = each, .userdata = userdata};
        int r = record_each(tree, RECORD_SESSION, BYTES("", 0), session_visit, &visit);
        return r != 0 ? r : MIN(visit.stopped, 0);
}
