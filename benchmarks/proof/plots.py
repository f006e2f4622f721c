"""The plots of docs/results.md, as SVG."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.proof.bundles import HEADLINE
from benchmarks.proof.tables import NAMES, STATICS
from benchmarks.proof.zoo import RESULTS

IMAGES = Path("docs/images")
# Readable on a light and on a dark page.
GREY, TEXT = "#888888", "#777777"
COLOURS = ("#2f7ed8", "#d9483b", "#2f9e62", "#8a5fd0", "#d98c00")
DTYPES = {"float16": ":", "int8": "--", "mixed": "-"}


def draw_all() -> None:
    """Draw what there are results for."""
    for name, draw in {
        "sizes": sizes,
        "ablation": ablation,
        "number": number,
        "misroutes": misroutes,
    }.items():
        draw(IMAGES / f"results-{name}.svg")


def sizes(path: Path) -> None:
    """What is kept of the own experts' scores, by storage."""
    found = {name: facts for name in HEADLINE if (facts := _read(name))}
    if not found:
        return

    def draw(axes: Any) -> None:
        for colour, zoo in zip(COLOURS, ("lora", "full"), strict=False):
            own = {name: facts for name, facts in found.items() if name.startswith(zoo)}
            if not own:
                continue
            for arm, marker in (("dynamic", "o"), ("oracle", "^")):
                points = [(f["storage"]["dynamic"], f["normalised"][arm]) for f in own.values()]
                axes.errorbar(
                    [x for x, _ in points],
                    [y["value"] for _, y in points],
                    yerr=[
                        [y["value"] - y["low"] for _, y in points],
                        [y["high"] - y["value"] for _, y in points],
                    ],
                    fmt=marker,
                    color=colour,
                    capsize=3,
                    label=f"{zoo}: {NAMES[arm]}",
                )
            first = next(iter(own.values()))
            best = max(STATICS, key=lambda arm: float(first["exact_match"][arm]["average"]))
            axes.plot(
                [first["storage"][best]],
                [first["normalised"][best]["value"]],
                "x",
                color=colour,
                label=f"{zoo}: best static ({NAMES[best]})",
            )
        axes.axhline(100, color=GREY, linewidth=0.8)
        axes.set_xlabel("bytes over the base's parameters × 2 bytes")
        axes.set_ylabel("% of the own experts' scores")

    _plot(path, draw)


def ablation(path: Path) -> None:
    """Top-1 by size: references and storage."""
    facts = _read("ablation")
    if not facts:
        return

    def draw(axes: Any) -> None:
        rows = [row for row in facts["rows"] if row["policy"] == "top-1" and row["reference"] != "no split"]
        references = list(dict.fromkeys(row["reference"] for row in rows))
        for colour, reference in zip(COLOURS, references, strict=False):
            for dtype, style in DTYPES.items():
                own = [row for row in rows if (row["reference"], row["dtype"]) == (reference, dtype)]
                own.sort(key=lambda row: float(row["storage"]))
                axes.plot(
                    [row["storage"] for row in own],
                    [row["normalised"][0] for row in own],
                    style,
                    marker=".",
                    color=colour,
                    label=f"against the {reference} base, {dtype}",
                )
        axes.axhline(100, color=GREY, linewidth=0.8)
        axes.set_xlabel("bytes over the base's parameters × 2 bytes")
        axes.set_ylabel("top-1, % of the own fine-tunes' scores")

    _plot(path, draw)


def number(path: Path) -> None:
    """Static and dynamic by the number of experts."""
    facts = _read("number")
    if not facts:
        return

    def draw(axes: Any) -> None:
        counts = [int(count) for count in facts]
        for colour, arm in zip(COLOURS, ("dynamic", "static"), strict=False):
            values = [row[arm]["normalised"] for row in facts.values()]
            axes.plot(counts, [v[0] for v in values], marker="o", color=colour, label=arm)
            axes.fill_between(counts, [v[1] for v in values], [v[2] for v in values], color=colour, alpha=0.2)
        axes.set_xticks(counts)
        axes.set_ylim(0, 105)
        axes.set_xlabel("LoRA experts")
        axes.set_ylabel("% of the own experts' scores")

    _plot(path, draw)


def misroutes(path: Path) -> None:
    """Exact match by the right expert's weight."""
    facts = _read("misroutes")
    if not facts:
        return

    def draw(axes: Any) -> None:
        weights = [float(weight) for weight in facts["curve"]]
        for colour, kind in zip(COLOURS, ("look-alikes", "templates", "all"), strict=False):
            values = [row[kind] for row in facts["curve"].values()]
            axes.plot(weights, values, marker=".", color=colour, label=kind)
        axes.set_xlabel("weight of the right expert, the rest goes to the likeliest wrong one")
        axes.set_ylabel("exact match, %")

    _plot(path, draw)


def _plot(path: Path, draw: Callable[[Any], None]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same figures give the same file.
    style: Any = matplotlib.rcParams
    style.update({"svg.hashsalt": "twinserve", "svg.fonttype": "none", "font.size": 10})
    style.update(dict.fromkeys(("xtick.color", "ytick.color", "axes.labelcolor", "legend.labelcolor"), TEXT))
    style["axes.edgecolor"] = GREY
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    draw(axes)
    axes.grid(color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def _read(name: str) -> Any:
    path = RESULTS / f"proof_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None
