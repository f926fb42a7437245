#!/usr/bin/env bash
# Ingests a JSON Lines file with a tar of pictures four times: at once, again, killed in the middle and resumed, and through a
# server that is killed with it. Prints counts and times; fails if a count disagrees.
#
#   benches/ingest_flickr8k.sh FIRN CAPTIONS.jsonl.gz IMAGES.tar [MODEL]
#
# FIRN is the executable (target/release/firn). Everything is written to a temporary folder.
set -euo pipefail
firn=$(realpath "$1") captions=$(realpath "$2") images=$(realpath "$3") model=${4:-builtin}
work=$(mktemp -d)
server=
cleanup() { [ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
cd "$work"

field() { grep -o "\"$1\":[0-9.]*" | head -1 | cut -d: -f2; }
count() { "$firn" collection get c --json "$@" | field points_count; }
ingest() { "$firn" ingest "$captions" --images "$images" --collection c --model "$model" --json "$@"; }
show() { printf '%-28s written %6s  unchanged %6s  skipped %3s  %7.1f s  %7.1f/s\n' "$1" "$(field written <"$2")" \
    "$(field unchanged <"$2")" "$(field skipped <"$2")" "$(field seconds <"$2")" "$(field points_per_second <"$2")"; }
# Waits until a journal has so many lines while the process lives.
wait_lines() { while kill -0 "$1" 2>/dev/null && [ "$(cat "$2" 2>/dev/null | wc -l)" -lt "$3" ]; do sleep 0.2; done; }
check() { [ "$1" = "$2" ] || { echo "$3: expected $1, received $2" >&2; exit 1; }; }

mkdir one two
(cd one && time ingest --journal j >report 2>progress) 2>times
show "at once" one/report
grep -E 'user|sys' times | tr '\n' ' '; echo
total=$(cd one && count)
(cd one && ingest --journal j >again 2>/dev/null)
show "again" one/again
check 0 "$(field written <one/again)" "written by a repeated run"

cd two
ingest --journal j >/dev/null 2>&1 &
run=$!
wait_lines $run j $((total / 2))
kill -9 $run
wait $run 2>/dev/null || true
echo "killed with $(wc -l <j) lines in the journal"
ingest --journal j >report 2>/dev/null
show "killed and resumed" report
check "$total" "$(count)" "points after a kill"
cd ..

mkdir served
address=127.0.0.1:0
serve() {
    rm -f served/port
    "$firn" serve --data-dir served/data --listen "$address" --http-listen none --model "$model" --port-file served/port 2>>served/log &
    server=$!
    until [ -e served/port ]; do kill -0 "$server"; sleep 0.1; done
    address=$(grep -o '127[^"]*' served/port | head -1)
}
serve
at=(--server "http://$address")
ingest "${at[@]}" --journal served/j >served/report 2>served/progress &
run=$!
wait_lines $run served/j $((total / 3))
kill -9 "$server"
echo "server killed with $(wc -l <served/j) lines in the journal; started again, the run goes on"
serve
wait_lines $run served/j $((2 * total / 3))
kill -9 $run
wait $run 2>/dev/null || true
echo "run killed with $(wc -l <served/j) lines in the journal"
ingest "${at[@]}" --journal served/j >served/report 2>/dev/null
show "served, killed, resumed" served/report
check "$total" "$(count "${at[@]}")" "points at the server"
echo "points: $total"
