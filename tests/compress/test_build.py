"""Recipes to bundles: what PEFT reads, edge cases of ranks and counts, and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from compress.build import build
from compress.bundle import Bundle, create
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.recipe import read_recipe
from compress.report import write_report
from compress.workspace import workspace
from tests import tiny
from tests.bundles import Zoo, build_bundle, full_zoo, silent, write_recipe


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def distance(a, b):
    return float((a - b).abs().max() / b.std())


def report_of(zoo: Zoo, folder) -> dict:
    recipe = read_recipe(zoo.bundle.path.parent / "recipe.yaml")
    with workspace(folder, "") as work, create(folder) as staging:
        manifest, report = build(recipe, staging, work, relative_to=None, progress=silent)
        write_report(staging, manifest, report)
    return report


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_peft_loads_every_expert_and_answers_alike(zoo, family):
    """Adapters: nothing goes beside them, so PEFT over base/ is the whole expert."""
    z = zoo("adapter", family)
    for task in z.bundle.tasks:
        base = AutoModelForCausalLM.from_pretrained(z.bundle.base)
        theirs = PeftModel.from_pretrained(base, z.bundle.path / "experts" / task).eval()
        ours = load_composed(z.bundle, factor_weights({task: 1.0}, z.bundle.tasks, z.bundle.scalings))
        ids = tiny.prompt(4, 11)
        assert distance(logits(ours, ids), logits(theirs, ids)) < 1e-4
        assert distance(logits(z.base, ids), logits(theirs, ids)) > 1e-2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_peft_alone_would_miss_is_reported(zoo, family, tmp_path):
    """Full fine-tunes: norms, biases and tied embeddings stand beside the adapter."""
    z = zoo("full", family)
    report = report_of(z, tmp_path / "bundle")
    beside = report["experts"]["t0"]["beside_adapter"]
    assert any("norm" in name or "ln_" in name for name in beside["parameters"])
    tied = [p.name for p in z.bundle.table().values() if p.tied_head]
    assert set(tied) <= set(beside["parameters"])
    assert 0 < beside["energy"] < 1
    base = AutoModelForCausalLM.from_pretrained(z.bundle.base)
    PeftModel.from_pretrained(base, z.bundle.path / "experts" / "t0")
    assert "t0" in (tmp_path / "bundle" / "report.html").read_text()


def test_peft_equals_our_composition_where_only_linears_moved(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    for i in range(2):
        tiny.save_finetune(tmp_path / f"t{i}", base, i, skip=("norm",))
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / f"t{i}")} for i in range(2)],
        exclusive={"energy": 0.9},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    assert not (bundle.path / "experts" / "t0" / "extra.safetensors").exists()
    model = AutoModelForCausalLM.from_pretrained(bundle.base)
    theirs = PeftModel.from_pretrained(model, bundle.path / "experts" / "t0").eval()
    ours = load_composed(bundle, factor_weights({"t0": 1.0}, bundle.tasks, bundle.scalings))
    ids = tiny.prompt(4, 11)
    assert distance(logits(ours, ids), logits(theirs, ids)) < 1e-4


def test_adapters_are_carried_byte_for_byte(zoo):
    """Also when the recipe stores at rank 1: an adapter is never truncated."""
    z = zoo("adapter", "llama")
    from safetensors.torch import load_file

    for task in z.bundle.tasks:
        given = load_file(z.bundle.path.parent / task / "adapter_model.safetensors")
        carried = load_file(z.bundle.path / "experts" / task / "adapter_model.safetensors")
        assert given.keys() == carried.keys()
        assert all(torch.equal(given[key], carried[key]) for key in given)
    assert z.bundle.manifest.reference == "pretrained"
    assert json.loads((z.bundle.path / "shared" / "shared.json").read_text())["scalings"] == {
        "t0": 0.3,
        "t1": 0.3,
        "t2": 0.3,
    }


def test_full_finetunes_and_adapters_in_one_bundle(tmp_path):
    base = tiny.save_base(tmp_path / "base", "qwen2")
    tuned = {
        "full": tiny.save_finetune(tmp_path / "full", base, 1),
        "adapter": tiny.save_adapter(
            tmp_path / "adapter", base, 2, target_modules=["q_proj"], bias="all", modules_to_save=["lm_head"]
        ).merge_and_unload(),
    }
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": task, "checkpoint": str(tmp_path / task)} for task in tuned],
        shared={"scaling": {"full": 0.2, "adapter": 0.6}},
        exclusive={"rank": 99},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    assert bundle.manifest.reference == "pretrained"
    ids = tiny.prompt(4, 11)
    for task, model in tuned.items():
        ours = load_composed(bundle, factor_weights({task: 1.0}, bundle.tasks, bundle.scalings))
        assert distance(logits(ours, ids), logits(model, ids)) < 1e-4
    shared = tiny.model("qwen2")
    with torch.no_grad():
        others = [
            (0.2, dict(tuned["full"].named_parameters())),
            (0.6, dict(tuned["adapter"].named_parameters())),
        ]
        for name, weight in shared.named_parameters():
            start = weight.clone()
            for scaling, parameters in others:
                weight.add_(scaling * (parameters[name] - start))
    ours = load_composed(bundle, factor_weights({}, bundle.tasks, bundle.scalings))
    assert distance(logits(ours, ids), logits(shared, ids)) < 1e-4


def test_twenty_experts(tmp_path):
    z = full_zoo(tmp_path, "llama", tasks=20, scaling=0.05)
    ids = tiny.prompt(4, 11)
    mixture = {f"t{i}": (i + 1) / 210 for i in range(20)}
    ours = load_composed(z.bundle, factor_weights(mixture, z.bundle.tasks, z.bundle.scalings))
    reference = logits(z.reference(mixture), ids)
    assert distance(logits(ours, ids).double(), reference) < 1e-4


def test_one_expert(tmp_path):
    z = full_zoo(tmp_path, "llama", tasks=1)
    ids = tiny.prompt(4, 11)
    for mixture in ({}, {"t0": 1.0}):
        ours = load_composed(z.bundle, factor_weights(mixture, z.bundle.tasks, z.bundle.scalings))
        assert distance(logits(ours, ids).double(), logits(z.reference(mixture), ids)) < 1e-4


def test_a_finetune_that_changed_nothing(tmp_path):
    """Its delta is zero: no factors, and still an adapter that PEFT loads."""
    base = tiny.save_base(tmp_path / "base")
    tiny.save_finetune(tmp_path / "same", base, 1, scale=0.0)
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": "same", "checkpoint": str(tmp_path / "same")}],
        exclusive={"rank": 4},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    assert bundle.manifest.experts["same"].max_rank == 0
    model = AutoModelForCausalLM.from_pretrained(bundle.base)
    theirs = PeftModel.from_pretrained(model, bundle.path / "experts" / "same").eval()
    ids = tiny.prompt(4, 11)
    torch.testing.assert_close(logits(theirs, ids), logits(base, ids))
    ours = load_composed(bundle, factor_weights({"same": 1.0}, bundle.tasks, bundle.scalings))
    torch.testing.assert_close(logits(ours, ids), logits(base, ids))


def test_rank_zero_keeps_only_norms_and_biases(tmp_path):
    z = full_zoo(tmp_path, "qwen2", rank=0, reference="shared")
    facts = z.bundle.manifest.experts["t0"]
    assert facts.max_rank == 0 and facts.kept == 0.0
    expert = z.bundle.expert("t0", z.bundle.table())
    for parameter in z.bundle.table().values():
        assert expert.low_rank(parameter.name) is None
        assert (expert.vector(parameter.name) is None) == parameter.is_matrix


def test_energy_is_kept_in_every_matrix(tmp_path):
    z = full_zoo(tmp_path, "llama", energy=0.8, reference="shared")
    report = report_of(z, tmp_path / "again")
    for facts in report["experts"].values():
        assert all(row["kept"] >= 0.8 - 1e-5 for row in facts["matrices"])
        assert 0.8 - 1e-5 <= facts["kept"] < 0.999


def test_reference_shared_would_truncate_adapters_and_is_refused(zoo, tmp_path):
    z = zoo("adapter", "llama")
    content = {**z.bundle.manifest.recipe, "exclusive": {"rank": 4, "reference": "shared"}}
    recipe = write_recipe(tmp_path / "r.yaml", **content)
    with pytest.raises(InputError, match="would truncate the adapter of task 't0'"):
        build_bundle(recipe, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("seeds", "rank", "expected"),
    [((7, 7, 7), 4, "shared"), ((7, 8, 9), 4, "pretrained"), ((7, 8, 9), 99, "shared")],
)
def test_reference_is_chosen_by_measured_error(tmp_path, seeds, rank, expected):
    """Alike task vectors nearly vanish against their mean; unlike ones gain rank by subtracting it. Where
    nothing is truncated, errors are rounding, and do not choose."""
    base = tiny.save_base(tmp_path / "base")
    for i, seed in enumerate(seeds):
        tiny.save_finetune(tmp_path / f"t{i}", base, seed, rank=8)
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / f"t{i}")} for i in range(3)],
        exclusive={"rank": rank},
    )
    assert build_bundle(recipe, tmp_path / "bundle").manifest.reference == expected


def test_adapter_trained_on_another_base_is_refused(zoo, tmp_path):
    z = zoo("adapter", "llama")
    source = z.bundle.path.parent
    card = source / "t0" / "README.md"
    kept = card.read_text()
    card.write_text("---\nbase_weights_sha256: 0123456789abcdef0123\n---\n")
    try:
        with pytest.raises(InputError, match=r"trained on base weights 0123456789abcdef…"):
            build_bundle(source / "recipe.yaml", tmp_path / "bundle")
        card.write_text(f"---\nbase_weights_sha256: {z.bundle.manifest.base.sha256}\n---\n")
        build_bundle(source / "recipe.yaml", tmp_path / "bundle")
    finally:
        card.write_text(kept)
    recorded = (z.bundle.path / "experts" / "t0" / "README.md").read_text()
    assert f'base_weights_sha256: "{z.bundle.manifest.base.sha256}"' in recorded


def test_weights_too_large_for_the_output_dtype(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    with torch.no_grad():
        base.model.norm.weight.fill_(1e6)
    base.save_pretrained(tmp_path / "base")
    tiny.save_finetune(tmp_path / "t0", base, 1)
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": "t0", "checkpoint": str(tmp_path / "t0")}],
        output={"dtype": "float16"},
    )
    with pytest.raises(InputError, match=r"model\.norm\.weight does not fit into torch\.float16"):
        build_bundle(recipe, tmp_path / "bundle")


def test_rounding_of_the_base_is_carried_by_the_experts(tmp_path):
    """Experts are subtracted from the rounded base, so a one-hot mixture does not see its rounding."""
    base = tiny.save_base(tmp_path / "base")
    tuned = tiny.save_finetune(tmp_path / "t0", base, 1)
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": "t0", "checkpoint": str(tmp_path / "t0")}],
        exclusive={"rank": 99},
        output={"dtype": "bfloat16"},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    ids = tiny.prompt(4, 11)
    ours = logits(load_composed(bundle, factor_weights({"t0": 1.0}, bundle.tasks, bundle.scalings)), ids)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    exact = tiny.save_finetune(tmp_path / "exact", base, 1)
    rounded = distance(logits(tuned, ids), logits(exact, ids))
    assert distance(ours, logits(exact, ids)) < rounded


def test_peak_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path):
    base = tiny.save_base(tmp_path / "base", hidden_size=384, intermediate_size=1024, num_hidden_layers=9)
    size = sum(p.nbytes for p in base.parameters())
    for i in range(6):
        tiny.save_finetune(tmp_path / f"t{i}", base, i)
    peaks = []
    for count in (1, 6):
        recipe = write_recipe(
            tmp_path / f"r{count}.yaml",
            base=str(tmp_path / "base"),
            experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / f"t{i}")} for i in range(count)],
            exclusive={"rank": 4, "reference": "shared"},
        )
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from tests.bundles import build_bundle\n"
            "build_bundle(Path(sys.argv[1]), Path(sys.argv[2]))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(recipe), str(tmp_path / f"bundle{count}")],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        )
        peaks.append(int(run.stdout.split()[-1]))
    assert size > 40e6
    assert peaks[1] - peaks[0] < 0.25 * size, f"grew by {(peaks[1] - peaks[0]) / size:.2f} checkpoints"


def test_bundle_opens_again_from_another_place(zoo, tmp_path):
    z = zoo("full", "llama")
    import shutil

    shutil.copytree(z.bundle.path, tmp_path / "moved")
    assert Bundle.open(tmp_path / "moved").tasks == ["t0", "t1", "t2"]
