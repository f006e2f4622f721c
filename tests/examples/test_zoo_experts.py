"""The committed experts: cards are whole and true to their files, tables are current, claims hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict

import pytest
import yaml
from safetensors import safe_open

from compress.adapters import recorded_base_hash
from compress.errors import InputError
from compress.recipe import read_recipe
from examples.zoo.cards import read_card
from examples.zoo.publish import main as publish
from examples.zoo.splits import items_sha256
from examples.zoo.table import ZOO, folders, table, with_table
from examples.zoo.tasks import TASKS
from serve.evaluate import read_data
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.examples.test_finetune import LINES, finetune, write

ADAPTERS = [folder for folder in folders() if folder.parent.name == "adapters"]
FULL = [folder for folder in folders() if folder.parent.name == "full"]
# What "beats the base by a wide margin" means here: the lower end of the interval, in points.
MARGIN = 30


def names(found):
    return [folder.name for folder in found]


def test_there_is_an_adapter_for_every_task_and_full_fine_tunes_beside():
    assert names(ADAPTERS) == [name for name, task in TASKS.items() if task.committed]
    assert len(ADAPTERS) >= 12
    assert len(FULL) >= 3


def test_recipes_of_eight_and_twelve_differ_in_nothing_but_their_experts():
    eight, twelve = (
        read_recipe(ZOO.parents[1] / "configs" / f"{name}.yaml") for name in ("zoo", "zoo_twelve")
    )
    assert [expert.task for expert in twelve.experts] == names(ADAPTERS)
    assert [expert.checkpoint for expert in twelve.experts] == [
        f"examples/zoo/adapters/{name}" for name in names(ADAPTERS)
    ]
    assert eight.experts == twelve.experts[:8]
    assert eight.model_copy(update={"experts": twelve.experts}) == twelve


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: f"{folder.parent.name}/{folder.name}")
class TestExpert:
    def test_beats_the_base_by_a_wide_margin(self, folder):
        score = read_card(folder).score
        assert score.prompts == 200
        assert 100 * score.gain.low >= MARGIN
        # Always giving the commonest answer is no skill either.
        assert score.expert.low > score.constant

    def test_card_says_what_its_facts_say(self, folder):
        assert (folder / "README.md").read_text(encoding="utf-8") == read_card(folder).render()

    def test_card_can_be_read_by_the_hub_and_by_us(self, folder):
        card = read_card(folder)
        _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        facts = yaml.safe_load(front)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert facts["library_name"] == "peft"
        assert facts["base_model"] == config["base_model_name_or_path"] == card.base_name
        assert recorded_base_hash(folder) == card.settings.base_sha256
        assert {"license", "tags", "language"} <= facts.keys() and text.strip().startswith("# ")

    def test_was_trained_on_the_committed_prompts(self, folder):
        card = read_card(folder)
        train, test = (
            read_data(ZOO / "data" / split, [folder.name])[folder.name] for split in ("train", "test")
        )
        assert card.settings.data_sha256 == items_sha256(train) and len(train) == card.settings.examples
        assert card.score.prompts == len(test)
        assert card.example.model_dump() == asdict(test[0])

    def test_weights_are_float16_safetensors_of_the_rank_it_says(self, folder):
        card = read_card(folder)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
        assert {part.get_dtype() for part in parts} == {"F16"}
        assert max(min(part.get_shape()) for part in parts) == (card.settings.rank or card.compressed_rank)


def test_experts_are_different_files():
    digests = {hashlib.sha256((f / "adapter_model.safetensors").read_bytes()).hexdigest() for f in folders()}
    assert len(digests) == len(folders())


def test_table_in_the_readme_is_current():
    text = (ZOO / "README.md").read_text(encoding="utf-8")
    assert with_table(text) == text
    assert table([read_card(folder) for folder in folders()]) in text


def test_a_missing_or_broken_card_is_named(tmp_path):
    with pytest.raises(InputError, match=r"card\.json: cannot be read"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text('{"seconds": 3}')
    with pytest.raises(InputError, match=r"card\.json: settings: Field required"):
        read_card(tmp_path)


@pytest.fixture
def full_bundle(tmp_path):
    """Two full fine-tunes by the recipe, and the bundle of them."""
    tiny.save_base(tmp_path / "base")
    write(tmp_path / "mine.jsonl", LINES)
    (tmp_path / "test").mkdir()
    for task in ("one", "two"):
        write(tmp_path / "test" / f"{task}.jsonl", [{"prompt": "99+1=", "answer": "100"}] * 9)
        finetune(tmp_path, "--full", "", "--task", task, "--out", f"runs/{task}", "--learning-rate", 0.01)

    def build(**exclusive):
        recipe = write_recipe(
            tmp_path / "full.yaml",
            base="base",
            experts=[{"task": task, "checkpoint": f"runs/{task}"} for task in ("one", "two")],
            exclusive={"rank": 4, "dtype": "float16", **exclusive},
        )
        run(tmp_path, "compress", recipe, "-o", "bundle")
        return tmp_path

    return build


def publish_here(folder, code=0):
    import typer

    words = ("bundle", "--data", "test", "--out", "kept", "--threads", 1)
    return run(folder, *words, code=code, program=lambda: typer.run(publish))


def test_compressed_experts_are_kept_with_both_scores(full_bundle):
    folder = full_bundle(reference="pretrained")
    done = publish_here(folder)
    assert "kept/one: exact match" in done.stderr
    card = read_card(folder / "kept" / "one")
    full = read_card(folder / "runs" / "one")
    assert card.full_score == full.score and card.compressed_rank == 4
    assert card.score.prompts == 9
    assert "| full fine-tune |" in (folder / "kept" / "one" / "README.md").read_text()
    # The kept folder is a checkpoint for another recipe, without the full fine-tune.
    recipe = write_recipe(
        folder / "again.yaml", base="base", experts=[{"task": "one", "checkpoint": "kept/one"}]
    )
    run(folder, "compress", recipe, "-o", "again")


def test_an_expert_of_another_fine_tune_is_not_published(full_bundle):
    folder = full_bundle(reference="pretrained")
    shutil.rmtree(folder / "runs" / "one")
    finetune(folder, "--full", "", "--task", "one", "--out", "runs/one", "--seed", 1)
    assert "is not the full fine-tune that" in publish_here(folder, code=1).stderr


def test_both_scores_are_of_the_same_prompts(full_bundle):
    folder = full_bundle(reference="pretrained")
    write(folder / "test" / "one.jsonl", [{"prompt": "99+1=", "answer": "100"}] * 3)
    assert "has 3 prompts of one, its fine-tune was scored on 9" in publish_here(folder, code=1).stderr


def test_experts_of_other_weights_are_not_published(full_bundle):
    folder = full_bundle(reference="shared")
    assert "is not a delta of the weights" in publish_here(folder, code=1).stderr
    assert not (folder / "kept").exists()
