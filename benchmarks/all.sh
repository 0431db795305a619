#!/usr/bin/env bash
# What README.md and docs/RESULTS.md claim, measured one after the other in a clone of its own.
#
#     benchmarks/all.sh FOLDER                     # everything, some hours on two cores
#     benchmarks/all.sh FOLDER default ask         # these parts only: default spider tables ask serve training storage
#
# FOLDER is made if it is not there; a part that ended is not run again. Spider is taken from data/raw here, if it lies
# there. FOLDER/figures.md has a row for each command: what it said, and its seconds; FOLDER/figures/ all that it printed.
set -euo pipefail
here=$(git rev-parse --show-toplevel)
folder=$(realpath -m "${1:?usage: benchmarks/all.sh FOLDER [PART ...]}")
shift
[ -d "$folder" ] || git clone --quiet "$here" "$folder"
cd "$folder"
make environment
export PATH=$PWD/.venv/bin:$PATH
archive=$here/data/raw/spider_data.zip
[ ! -e "$archive" ] || ln -sf "$(realpath "$archive")" data/raw/spider_data.zip
mkdir -p figures
[ -e figures.md ] || printf '%s\n' "| figure | command | said | seconds |" "| --- | --- | --- | --- |" >figures.md

# figure NAME PATTERN COMMAND...: runs the command once; the lines of its output that match the pattern are its figure.
figure() {
    local name=$1 pattern=$2 log=figures/$1.log
    shift 2
    [ ! -e "figures/$name.done" ] || return 0
    local start=$SECONDS
    "$@" 2>&1 | tee "$log"
    local said
    said=$(grep -E "$pattern" "$log" | paste -sd';' | sed 's/|/ /g')
    [ -n "$said" ] || { echo "$name: no line of $log matches $pattern" >&2; exit 1; }
    echo "| $name | \`$*\` | $said | $((SECONDS - start)) |" >>figures.md
    touch "figures/$name.done"
}

default() {
    figure default '^(train|score):' dvc exp run
    figure default-guided '^score:' dvc exp run -S predict=execution_guided -S predict.constrained=true
    figure default-untrained '^score:' dvc exp run -S predict.zero_shot=true
}

spider() {
    local quick=(-S experiment=spider-quick)
    figure spider-quick '^(convert|train|score):' dvc exp run "${quick[@]}"
    figure spider-quick-guided '^score:' dvc exp run "${quick[@]}" -S predict=execution_guided -S predict.constrained=true
    figure spider '^(train|score):' dvc exp run -S experiment=spider
}

tables() { # of large schemas, and questions that a database cannot answer
    dvc exp run convert -S data=spider # says nothing where an earlier part has run it
    figure spider-conversion 'verified' python -m json.tool --compact metrics/convert.json
    figure tables 'tokens:|500 tables' python -m benchmarks.tables
    figure decline 'declined' python -m benchmarks.decline
}

ask() {
    make params
    dvc exp run # the default's release, from the cache where it was made before
    figure ask '.' python benchmarks/ask.py
    figure sql-eval '^all |95 %' python -m benchmarks.sql_eval --model models/release
}

serve() {
    figure serve '.' python benchmarks/serve.py
}

training() { # beside the field's own tools
    figure fused '.' python benchmarks/fused.py
    figure stock '.' python benchmarks/training.py
    figure prediction '.' python benchmarks/prediction.py
    figure tracking '.' python benchmarks/tracking.py
}

storage() {
    figure storage '.' python benchmarks/storage.py
}

for part in "${@:-default spider tables ask serve training storage}"; do
    for name in $part; do
        "$name"
    done
done
cat figures.md
