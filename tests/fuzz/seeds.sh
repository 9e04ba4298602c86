#!/bin/bash
# Writes the seeds of all fuzz targets into their corpora, from real samples: tests/fuzz/seeds.sh BUILD. What fuzzers
# found lies beside them and stays.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
for replay in "$1"/tests/fuzz/replay_*; do
        [ -x "$replay" ] && [ -f "$replay" ] || continue
        name=${replay##*/replay_}
        case $name in wire_*) name=wire ;; esac
        mkdir -p "$here/corpus/$name"
        "$replay" --write "$here/corpus/$name"
done
