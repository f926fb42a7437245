#!/bin/sh
# FLAME at small scale: an image tower against the facets that a small real decoder makes, with and without a frozen block of
# that decoder, and a plain dual encoder of the same image tower; three seeds each, recall on what was held out.
#
#   benches/flame.sh FIRN FLAME_DATA WEIGHTS EMOJI OUT [TEMPLATES]
#
# FIRN is the program, FLAME_DATA the example of firn-model that makes the data (cargo build --release -p firn-model --example
# flame_data); WEIGHTS holds stories260K.bin and tok512.bin, EMOJI what `firn train align --emoji` takes;
# TEMPLATES asks otherwise than FLAME does, as benches/tales.toml. What is done is not done again, so a stopped run goes on.
set -eu
firn=$1 make=$2 weights=$3 emoji=$4 out=$5 templates=${6:-}
steps=${STEPS:-2000} batch=${BATCH:-64} seeds=${SEEDS:-1 2 3}

[ -f "$out/facets.safetensors" ] || "$make" "$weights" "$emoji" "$out" "${SCENES:-3000}" ${templates:+"$templates"}

size="--side-px 72 --patch-px 12 --image-dim 64 --image-blocks 2 --projector 128"
recipe="--steps $steps --batch $batch --warm-up 50 --rate 2e-3 --decay 0.1 --evaluate-every 0 --checkpoint-every 1000000"
for seed in $seeds; do
    for kind in ${KINDS:-facets block dual}; do
        case $kind in
            facets) side="--frozen text --facets $out/facets.safetensors" ;;
            block) side="--frozen text --facets $out/facets.safetensors --block $out/decoder" ;;
            dual) side="--frozen none --captions $out/captions.jsonl --dim 64 --texts-per-image 2 --table-rows 8192 --plain-dim 64" ;;
        esac
        case $kind in
            dual) texts="--captions $out/captions.jsonl" ;;
            *) texts="--facets $out/facets.safetensors" ;;
        esac
        run="$out/$kind-$seed"
        # shellcheck disable=SC2086 # words on purpose
        [ -f "$run/aligned.safetensors" ] || "$firn" train align $side --images "$out/emoji.tar" "$out/scenes.tar" $size $recipe --seed "$seed" --out "$run" 2> "$run.log"
        for what in emoji scenes; do
            echo "== $kind, seed $seed, $what"
            # shellcheck disable=SC2086
            "$firn" train evaluate --aligned "$run" --images "$out/$what.tar" $texts
        done
    done
done
