"""The curves as an SVG: one panel a family, readable on a light and on a dark page."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from jinja2 import Environment

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 240, 52, 64, 70
COLOURS = {
    "plain": "#8a8a8a",
    "ffn": "#d98c00",
    "attention": "#3b8fd9",
    "ffn + attention": "#8a5fd0",
    "residual": "#2f9e62",
    "all": "#d9483b",
    # Drawn only where they were chosen.
    "ffn + residual": "#c0469a",
    "attention + residual": "#7a8f00",
}
ALWAYS = tuple(COLOURS)[:6]
TITLES = {
    "bert": "BERT, masked language model",
    "llama": "Llama, grouped heads and rotary positions",
}
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="t">
<title id="t">Held-out loss between two models of different initialisation, by what was aligned</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #333; }
.title { font-weight: 600; font-size: 13px; }
.tick { font-size: 11px; fill: #777; }
.grid { stroke: #8884; stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.chosen { stroke-width: 3.4; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .tick { fill: #999; } }
</style>
{% for entry in legend -%}
<path class="line" stroke="{{ entry.colour }}" d="M{{ entry.x }} 16h22"/>\
<text x="{{ entry.x + 28 }}" y="20">{{ entry.name }}</text>
{% endfor %}
{%- for panel in panels -%}
<g transform="translate({{ panel.x }} {{ panel.y }})">
<text class="title" y="-12">{{ panel.title }}</text>
{% for tick in panel.losses -%}
<path class="grid" d="M0 {{ tick.at }}h{{ panel.width }}"/>\
<text class="tick" x="-8" y="{{ tick.at + 4 }}" text-anchor="end">{{ tick.text }}</text>
{% endfor %}
{%- for tick in panel.shares -%}
<text class="tick" x="{{ tick.at }}" y="{{ panel.height + 18 }}" text-anchor="middle">{{ tick.text }}</text>
{% endfor %}
{%- for line in panel.lines -%}
<path class="line{{ ' chosen' if line.chosen }}" stroke="{{ line.colour }}" d="M{{ line.points }}"/>
{% endfor -%}
<text class="tick" x="{{ panel.width / 2 }}" y="{{ panel.height + 36 }}" text-anchor="middle">\
share λ of the aligned model; the thick line is what align chose</text>
</g>
{% endfor -%}
<text class="tick" transform="translate(12 {{ middle }}) rotate(-90)" text-anchor="middle">\
loss, nats a token</text>
</svg>
"""


def draw(results: dict[str, Any]) -> str:
    """The SVG of ``results``: family -> what ``curves`` returns."""
    panels = [
        _panel(TITLES[family], facts, LEFT + number * (WIDTH + GAP))
        for number, (family, facts) in enumerate(results.items())
    ]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(
        width=LEFT + len(panels) * (WIDTH + GAP) - GAP + 16,
        height=TOP + HEIGHT + 50,
        middle=TOP + HEIGHT / 2,
        legend=_legend([name for name in COLOURS if any(name in _drawn(one) for one in results.values())]),
        panels=panels,
    )


def _legend(names: list[str]) -> list[dict[str, Any]]:
    # Letters are about 7 units wide at this size.
    starts = accumulate((56 + 7 * len(name) for name in names), initial=LEFT)
    return [{"name": name, "colour": COLOURS[name], "x": x} for name, x in zip(names, starts, strict=False)]


def _drawn(facts: dict[str, Any]) -> dict[str, list[float]]:
    """The lines to draw, the chosen one last and so on top."""
    names = [name for name in ALWAYS if name != facts["chosen"]]
    return {name: facts["loss"][name] for name in (*names, facts["chosen"])}


def _panel(title: str, facts: dict[str, Any], x: int) -> dict[str, Any]:
    lines = _drawn(facts)
    losses = [value for line in lines.values() for value in line]
    step = next(s for s in (0.1, 0.25, 0.5, 1.0, 2.0) if (max(losses) - min(losses)) / s <= 8)
    low, high = step * (min(losses) // step), step * -(-max(losses) // step)

    def at(loss: float) -> float:
        return round(HEIGHT * (high - loss) / (high - low), 1)

    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    return {
        "title": title,
        "x": x,
        "y": TOP,
        "width": WIDTH,
        "height": HEIGHT,
        "losses": [{"at": at(tick), "text": f"{tick:.2f}".rstrip("0").rstrip(".")} for tick in ticks],
        "shares": [{"at": WIDTH * share, "text": share} for share in (0, 0.25, 0.5, 0.75, 1)],
        "lines": [
            {
                "colour": COLOURS[name],
                "chosen": name == facts["chosen"],
                "points": " ".join(
                    f"{WIDTH * share:.1f} {at(loss)}"
                    for share, loss in zip(facts["share"], line, strict=True)
                ),
            }
            for name, line in lines.items()
        ],
    }
