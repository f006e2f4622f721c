"""The zoo's table of scores, made from the cards; and the cards' texts, made from their facts.

python -m examples.zoo.table
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.errors import InputError
from examples.zoo.cards import Card, percent, read_card
from examples.zoo.tasks import TASKS

ZOO = Path(__file__).parent
BEGIN, END = "<!-- table: python -m examples.zoo.table -->", "<!-- end of table -->"


def main() -> None:
    """Render every card again and put the table into the zoo's README.md."""
    for folder in folders():
        (folder / "README.md").write_text(read_card(folder).render(), encoding="utf-8")
    readme = ZOO / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    print(table([read_card(folder) for folder in folders()]))


def folders() -> list[Path]:
    """Folders of the committed experts: adapters first, then compressed full fine-tunes."""
    kinds = ((ZOO / kind / task) for kind in ("adapters", "full") for task in TASKS)
    return [folder for folder in kinds if folder.is_dir()]


def with_table(text: str) -> str:
    """``text`` with the current table between its two marks."""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise InputError(f"{ZOO / 'README.md'}: put the marks {BEGIN} and {END} where the table goes")
    cards = [read_card(folder) for folder in folders()]
    return f"{before}{BEGIN}\n{table(cards)}\n{END}{after}"


def table(cards: Sequence[Card]) -> str:
    """A Markdown table of exact match in percent, with 95 % intervals."""
    rows = [
        "| task | trained | steps × batch | base | full fine-tune | **expert** | expert − base | constant |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        run, score = card.settings, card.score
        gain = f"{100 * score.gain.value:+.1f} ({100 * score.gain.low:+.1f} … {100 * score.gain.high:+.1f})"
        trained = f"LoRA, r = {run.rank}" if run.rank else f"all weights, cut to rank {card.compressed_rank}"
        full = percent(card.full_score.expert) if card.full_score else ""
        cells = (
            run.task,
            trained,
            f"{run.steps} × {run.batch}",
            percent(score.base),
            full,
            f"**{percent(score.expert)}**",
            gain,
            f"{100 * score.constant:.1f}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
