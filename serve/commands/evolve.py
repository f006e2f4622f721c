"""twinserve evolve: search for a better merge of fine-tunes by what it scores on development prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serve.commands.calibration import calibration_of
from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import Bars, bars

if TYPE_CHECKING:
    from compress.evolve import EvolveSettings
    from compress.evolvedmodel import Evolved
    from compress.fitness import Evaluation, Objective, Standing
    from compress.recipe import Recipe
    from serve.objectives import Exam


def evolve(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Base, fine-tunes and their merge.")],
    dev: Annotated[Path, typer.Option(metavar="DIR", help="Prompts to select by: DIR/<task>.jsonl.")],
    test: Annotated[Path, typer.Option(metavar="DIR", help="Other prompts, looked at once, at the end.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder of the model.")],
    limit: Annotated[int, typer.Option(min=1, help="Development prompts a task at most.")] = 50,
    objective: Annotated[
        str, typer.Option(help="loss: of the reference answers; or exact_match, in which few models differ.")
    ] = "loss",
    strategy: Annotated[
        str | None, typer.Option(help="blend (default), rand/1 or current-to-best/1.")
    ] = None,
    factor: Annotated[float | None, typer.Option(metavar="F", help="How far a mutant goes, 0 to 1.")] = None,
    crossover: Annotated[
        float | None, typer.Option(metavar="CR", help="Share of weights taken from the mutant, 0 to 1.")
    ] = None,
    generations: Annotated[int | None, typer.Option(help="Each costs one score a fine-tune.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge/--no-merge", help="Score the recipe's merge, or single models.")
    ] = True,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Evolve fine-tunes into one plain model that scores better on development prompts.

    Killed, the same command goes on where it was. Example: twinserve evolve configs/methods/evolver.yaml
    --dev examples/zoo/data/dev --test examples/zoo/data/test -o evolved
    """
    import torch

    from compress.checkpoints import Checkpoint
    from compress.evolvedmodel import evolve_model
    from compress.inputs import refuse_overlap
    from compress.recipe import read_recipe
    from compress.sources import resolve
    from compress.staging import refuse_existing, staged
    from compress.workspace import workspace
    from serve.evaluate import read_data
    from serve.objectives import Exam, refuse_shared, refuse_unserved

    engine = engine_settings(device=device, threads=threads)
    read = read_recipe(recipe)
    settings = _settings(
        strategy=strategy,
        factor=factor,
        crossover=crossover,
        generations=generations,
        seed=seed,
        merge=read.shared if merge else None,
    )
    settings.check(len(read.experts))
    refuse_overlap(read.sources, output, recipe.parent)
    refuse_existing(output)
    data, unseen = read_data(dev, read.tasks, limit), read_data(test, read.tasks)
    refuse_shared(data, unseen)
    base = Checkpoint.open(resolve(read.base, recipe.parent))
    selecting, final = Exam(data, base, engine), Exam(unseen, base, engine)
    goal = _objective(objective, selecting)
    refuse_unserved(base, engine)
    if threads:
        torch.set_num_threads(threads)
    calibration = calibration_of(read, recipe.parent) if merge else None
    key = _key(read, recipe.parent, calibration, settings, goal.name, selecting)
    _announce(settings, len(read.experts), selecting)
    with bars() as shown, workspace(output, key) as work, staged(output) as folder:
        evolved = evolve_model(
            read,
            settings,
            folder,
            work,
            objective=goal,
            examine=lambda path: {"loss": final.loss(path), "exact_match": final.exact_match(path)},
            relative_to=recipe.parent,
            calibration=calibration,
            notify=_teller(shown, goal),
            progress=shown.report,
        )
        for note in evolved.notes:
            shown.print(f"note: {note}")
    _show(evolved, goal, selecting, final, output)


def _settings(**options: Any) -> EvolveSettings:
    from pydantic import ValidationError

    from compress.evolve import EvolveSettings
    from compress.recipe import validation_sentence

    try:
        return EvolveSettings(**{key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter(validation_sentence(error, EvolveSettings)) from error


def _objective(name: str, exam: Exam) -> Objective:
    from compress.fitness import Objective

    known = {
        "loss": Objective("loss", exam.loss, larger_is_better=False),
        "exact_match": Objective("exact_match", exam.exact_match, larger_is_better=True),
    }
    if name not in known:
        raise typer.BadParameter(f"--objective {name}: give {' or '.join(known)}")
    return known[name]


def _key(
    recipe: Recipe,
    relative_to: Path,
    calibration: Any,
    settings: EvolveSettings,
    objective: str,
    exam: Exam,
) -> str:
    """All that an evaluation depends on."""
    from compress.inputs import work_key

    engine = exam.settings
    return repr(
        (
            work_key(recipe, relative_to, calibration),
            settings.model_dump_json(),
            objective,
            exam.data,
            engine.torch_device(),
            engine.torch_dtype(),
        )
    )


def _announce(settings: EvolveSettings, models: int, exam: Exam) -> None:
    from compress.evolve import steps

    first = f"{models} fine-tunes" + (", their merge" if settings.merge else "")
    Console().print(
        f"{len(steps(models, settings))} evaluations of {exam.prompts} development prompts: {first}, "
        f"{settings.generations} × {models} offspring",
        highlight=False,
        soft_wrap=True,
    )


def _teller(shown: Bars, objective: Objective) -> Any:
    """Tells of every evaluation that is one's best so far."""
    best: float | None = None

    def tell(evaluation: Evaluation, standing: Standing, done: int, total: int) -> None:
        nonlocal best
        shown.report("evaluations", done, total)
        first = standing.merge is not None and evaluation.individual is None
        if first or objective.better(evaluation.score, best):
            best = evaluation.score
            who = evaluation.task or "merge of the fine-tunes"
            shown.print(
                f"generation {evaluation.generation}, {who}: {objective.name} {_figure(best, objective.name)}"
            )

    return tell


def _show(evolved: Evolved, objective: Objective, dev: Exam, test: Exam, output: Path) -> None:
    table = Table(title=f"{output.name}: {test.prompts} test prompts", title_justify="left")
    for column in ("model", f"dev {objective.name}", "test loss", "test exact match"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for one in evolved.scored:
        scores = [_figure(one.test[name], name) for name in ("loss", "exact_match")]
        table.add_row(one.name, _figure(one.dev, objective.name), *scores)
    offspring = [one.kept for one in evolved.history if one.generation]
    console = Console()
    console.print(table)
    console.print(
        f"{len(evolved.history)} evaluations of {dev.prompts} development prompts; {sum(offspring)} of "
        f"{len(offspring)} offspring kept; loss in nats a token of the answers",
        highlight=False,
        soft_wrap=True,
    )


def _figure(score: float | None, name: str) -> str:
    if score is None:
        return "–"
    return f"{score:.4f}" if name == "loss" else f"{100 * score:.1f} %"
