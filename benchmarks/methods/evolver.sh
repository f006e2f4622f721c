#!/usr/bin/env sh
# What evolution adds to the average of four of the zoo's experts, from the repository's root:
# sh benchmarks/methods/evolver.sh runs/evolver
# 45 evaluations (4 experts, their average, 10 × 4 offspring) of 52 development prompts, 13 a task; the table's other
# columns are test prompts that decided nothing. Needs 3.5 GB of disk while it runs. Interrupted, the same command goes on.
set -e
out=${1:?where the evolved model goes}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"${TWINSERVE:-.venv/bin/twinserve}" evolve configs/methods/evolver.yaml --dev examples/zoo/data/dev \
  --test examples/zoo/data/test --output "$out" --limit 13 --generations 10 --strategy blend --factor 0.5 \
  --crossover 0.5 --seed 0
cp "$out/evolve.json" benchmarks/results/evolver.json
