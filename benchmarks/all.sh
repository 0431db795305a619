#!/usr/bin/env bash
# What README.md and docs/RESULTS.md claim, measured one after the other in a clone of its own.
#
#     benchmarks/all.sh FOLDER                     # everything, half a day on two cores
#     benchmarks/all.sh FOLDER default ask         # these parts only, of those in its last lines
#
# FOLDER is made if it is not there; a part that ended is not run again. Spider and sql-eval are taken from data/raw
# here, if they lie there. FOLDER/figures.md has a row for each command: what it said, and its seconds; FOLDER/figures/
# has all that it printed.
set -euo pipefail
here=$(git rev-parse --show-toplevel)
folder=$(realpath -m "${1:?usage: benchmarks/all.sh FOLDER [PART ...]}")
shift
[ -d "$folder" ] || git clone --quiet "$here" "$folder"
cd "$folder"
make environment
export PATH=$PWD/.venv/bin:$PATH
mkdir -p figures data/raw
for name in spider_data.zip sql_eval; do
    [ ! -e "$here/data/raw/$name" ] || ln -sfn "$(realpath "$here/data/raw/$name")" "data/raw/$name"
done
[ -e figures.md ] || printf '%s\n' "| figure | command | said | seconds |" "| --- | --- | --- | --- |" >figures.md

# figure NAME PATTERN COMMAND...: runs the command once; the lines of its output that match the pattern are its figure.
figure() {
    local name=$1 pattern=$2 log=figures/$1.log
    shift 2
    [ ! -e "figures/$name.done" ] || return 0
    local start=$SECONDS
    "$@" 2>&1 | tee "$log"
    local said
    said=$({ grep -E "$pattern" "$log" || true; } | paste -sd';' | sed 's/|/ /g') # pipefail: no line is no end yet
    [ -n "$said" ] || { echo "$name: no line of $log matches $pattern" >&2; exit 1; }
    echo "| $name | \`$*\` | $said | $((SECONDS - start)) |" >>figures.md
    touch "figures/$name.done"
}

default() {
    figure default '^(train|score):' dvc exp run
    figure default-second-try '^score:' dvc exp run -S predict=second_try
    figure default-guided '^score:' dvc exp run -S predict=execution_guided -S predict.constrained=true
    figure default-untrained '^score:' dvc exp run -S predict.zero_shot=true
}

quick() {
    local recipe=(-S experiment=spider-quick)
    figure spider-quick '^(convert|train|score):' dvc exp run "${recipe[@]}"
    figure spider-quick-guided '^score:' dvc exp run "${recipe[@]}" -S predict=execution_guided -S predict.constrained=true
}

spider() { # two hours of training
    figure spider '^(train|score):' dvc exp run -S experiment=spider
    figure spider-second-try '^score:' dvc exp run -S experiment=spider -S predict=second_try
}

large() { # four hours of training
    figure spider-1.5b '^(train|score):' dvc exp run -S experiment=spider-1.5b
    figure spider-1.5b-second-try '^score:' dvc exp run -S experiment=spider-1.5b -S predict=second_try
    figure everyday-1.5b '^(train|score):' dvc exp run -S experiment=everyday-1.5b
    figure sql-eval '^all |95 %' python -m benchmarks.sql_eval --model models/release
    figure sql-eval-second-try '^all |95 %' python -m benchmarks.sql_eval --model models/release --run
}

tables() { # of large schemas, and questions that a database cannot answer
    dvc exp run convert base_model -S data=spider # says nothing where an earlier part has run it
    figure spider-conversion 'verified' python -m json.tool --compact metrics/convert.json
    figure tables 'tokens:|500 tables' python -m benchmarks.tables
    figure decline 'declined' python -m benchmarks.decline
}

release() { # of the default, from the cache where it was made before
    make params
    dvc exp run
}

ask() {
    release
    figure ask '.' python benchmarks/ask.py
}

own() { # fourteen trainings
    release
    figure own-database '^(advising|yelp) ' python -m benchmarks.own_database --databases advising yelp --init models/release
}

serve() {
    release
    figure serve '.' python benchmarks/serve.py
}

training() { # beside the field's own tools
    release
    figure fused '.' python benchmarks/fused.py
    figure stock '.' python benchmarks/training.py
    figure prediction '.' python benchmarks/prediction.py
    figure tracking '.' python benchmarks/tracking.py
}

storage() {
    figure storage '.' python benchmarks/storage.py
}

for part in "${@:-default ask serve training storage tables quick own spider large}"; do
    for name in $part; do
        "$name"
    done
done
cat figures.md
