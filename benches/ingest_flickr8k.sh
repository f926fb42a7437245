#!/usr/bin/env bash
# Ingests a JSON Lines file with a tar of pictures: at once and again; killed in the middle and resumed; and through a server
# that is killed in the middle, as is the run itself later. Prints counts and times; fails if a count disagrees.
#
#   benches/ingest_flickr8k.sh FIRN CAPTIONS.jsonl.gz IMAGES.tar [MODEL [at_once|killed|served ...]]
#
# FIRN is the executable (target/release/firn). Everything is written to a temporary folder.
set -euo pipefail
firn=$(realpath "$1") captions=$(realpath "$2") images=$(realpath "$3") model=${4:-builtin}
shift $(($# < 4 ? $# : 4))
total=$(gzip -dc "$captions" | wc -l)
work=$(mktemp -d)
server=
cleanup() { [ -z "$server" ] || kill_run "$server"; rm -rf "$work"; }
trap cleanup EXIT

field() { grep -o "\"$1\":[0-9.]*" | head -1 | cut -d: -f2; }
count() { "$firn" collection get c --json "$@" | field points_count; }
# A command, not a function: `$!` must be the program itself.
ingest=("$firn" ingest "$captions" --images "$images" --collection c --model "$model" --journal j --json)
show() {
    printf '%-26s written %6s  unchanged %6s  skipped %3s  %7.1f s  %7.1f/s\n' "$1" "$(field written <report)" \
        "$(field unchanged <report)" "$(field skipped <report)" "$(field seconds <report)" "$(field points_per_second <report)"
}
cpu() { awk '/^(user|sys)/ { split($2, t, /[ms]/); s += 60 * t[1] + t[2] } END { printf "  CPU %.1f s\n", s }' times; }
lines() { cat j 2>/dev/null | wc -l; }
# Waits until the journal has so many lines while the process lives.
wait_lines() { while kill -0 "$1" 2>/dev/null && [ "$(lines)" -lt "$2" ]; do sleep 0.2; done; }
kill_run() { kill -9 "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }
check() { [ "$1" = "$2" ] || { echo "$3: expected $1, received $2" >&2; exit 1; }; }

at_once() {
    { time "${ingest[@]}" >report 2>progress; } 2>times
    show "at once" && cpu
    check "$total" "$(count)" "points"
    "${ingest[@]}" >report 2>/dev/null
    show "again"
    check 0 "$(field written <report)" "written by a repeated run"
}

killed() {
    "${ingest[@]}" >/dev/null 2>&1 &
    wait_lines $! $((total / 2))
    kill_run $!
    echo "killed with $(lines) lines in the journal"
    { time "${ingest[@]}" >report 2>/dev/null; } 2>times
    show "resumed" && cpu
    check "$total" "$(count)" "points after a kill"
}

serve() {
    rm -f port
    "$firn" serve --data-dir data --listen "$1" --http-listen none --model "$model" --port-file port 2>>log &
    server=$!
    until [ -e port ]; do kill -0 "$server"; sleep 0.1; done
    address=$(grep -o '127[^"]*' port | head -1)
}

served() {
    serve 127.0.0.1:0
    "${ingest[@]}" --server "http://$address" >report 2>progress &
    run=$!
    wait_lines $run $((total / 3))
    kill_run "$server"
    echo "server killed with $(lines) lines in the journal; it is started again, the run goes on by itself"
    serve "$address"
    wait_lines $run $((2 * total / 3))
    kill_run $run
    echo "run killed with $(lines) lines in the journal"
    "${ingest[@]}" --server "http://$address" >report 2>/dev/null
    show "served, resumed"
    check "$total" "$(count --server "http://$address")" "points at the server"
}

[ $# -gt 0 ] || set -- at_once killed served
for part in "$@"; do
    mkdir "$work/$part" && cd "$work/$part"
    "$part"
done
