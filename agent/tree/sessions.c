/* Host sessions: one per host, with a generation that rises by a committed entry each time the host attaches
 * anew. What a generation owns ends in the revision that ends it, so that no entry ever outlives its owner's
 * session, and a late keep-alive or a second END_SESSION finds nothing to do. */
#include "internal.h"

#define SESSION_BYTES 17 /* u64 generation | u8 attached | u64 number of entries owned */

int session_decode(Bytes key, Bytes body, Session *ret) {
        if (key.size != 8 || body.size != SESSION_BYTES || body.data[8] > 1)
                return TREE_ROTTEN;
        *ret = (Session){
                .generation = bytes_get_u64(body.data),
                .attached = body.data[8],
                .n_owned = bytes_get_u64(body.data + 9),
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

int apply_attach(Apply *apply) {
        uint64_t host = apply->command->host;
        Session session = {};
        int r = session_get(apply->tree, host, &session);
        if (r != 0 && r != TREE_NONE)
                return r;
        r = entries_end_owned(apply, host);
        if (r != 0)
                return r;
        session = (Session){.generation = session.generation + 1, .attached = true};
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

int tree_session(Tree *tree, uint64_t host, TreeSession *ret) {
        Session session;
        int r = session_get(tree, host, &session);
        if (r == 0)
                *ret = (TreeSession){
                        .host = host, .generation = session.generation, .attached = session.attached};
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
        TreeSession seen = {
                .host = key_read(key.data), .generation = session.generation, .attached = session.attached};
        visit->stopped = visit->each(&seen, visit->userdata);
        return visit->stopped != 0 ? TREE_NONE : 0;
}

int tree_sessions(Tree *tree, int (*each)(const TreeSession *session, void *userdata), void *userdata) {
        SessionVisit visit = {.each = each, .userdata = userdata};
        int r = record_each(tree, RECORD_SESSION, BYTES("", 0), session_visit, &visit);
        return r != 0 ? r : MIN(visit.stopped, 0);
}
