"""The trade-off as an SVG: general ability kept against the skill gained."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment

WIDTH, HEIGHT, LEFT, TOP = 460, 320, 60, 24
COLOURS = {"merge": "#2f9e62", "general": "#8a8a8a", "pretrained": "#8a8a8a", "skill": "#8a8a8a"}
TRAINED = "#d9483b"
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="t">
<title id="t">General tasks against the skill, for merged and for further trained models</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #333; }
.tick { font-size: 11px; fill: #777; }
.grid { stroke: #8884; stroke-width: 1; }
.line { fill: none; stroke: #2f9e62; stroke-width: 1.8; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .tick { fill: #999; } }
</style>
{% for tick in ticks -%}
<path class="grid" d="M{{ left }} {{ tick.y }}h{{ w }}M{{ tick.x }} {{ top }}v{{ h }}"/>
<text class="tick" x="{{ left - 8 }}" y="{{ tick.y + 4 }}" text-anchor="end">{{ tick.value }}</text>
<text class="tick" x="{{ tick.x }}" y="{{ top + h + 18 }}" text-anchor="middle">{{ tick.value }}</text>
{% endfor -%}
<path class="line" d="M{{ curve }}"/>
{% for point in points -%}
<circle cx="{{ point.x }}" cy="{{ point.y }}" r="4" fill="{{ point.colour }}"/>
<text x="{{ point.x + 8 }}" y="{{ point.y + point.shift }}">{{ point.name }}</text>
{% endfor -%}
<text class="tick" x="{{ left + w / 2 }}" y="{{ top + h + 38 }}" text-anchor="middle">\
exact match on the general tasks, %</text>
<text class="tick" transform="translate(16 {{ top + h / 2 }}) rotate(-90)" text-anchor="middle">\
skill: mean of unsafe refused and safe answered, %</text>
</svg>
"""


def draw(facts: dict[str, Any]) -> str:
    """The SVG of ``facts``, as the benchmark writes them."""
    points = []
    for name, row in facts["rows"].items():
        test = row["test"]
        x, y = _at(test["general"], (test["refused"] + test["complied"]) / 2)
        colour = COLOURS.get(name.split(",")[0].split(" ")[0], TRAINED)
        points.append({"name": name.removeprefix("merge, "), "x": x, "y": y, "colour": colour, "shift": 4})
    for number, point in enumerate(points):
        # A label that would lie on an earlier one moves down.
        while any(
            abs(p["y"] + p["shift"] - point["y"] - point["shift"]) < 13 and abs(p["x"] - point["x"]) < 120
            for p in points[:number]
        ):
            point["shift"] += 13
    merged = [p for p, name in zip(points, facts["rows"], strict=True) if name.startswith("merge")]
    path = [next(p for p in points if p["name"] == "general"), *merged]
    ticks = [{"value": v, "x": _at(v, 0)[0], "y": _at(0, v)[1]} for v in range(0, 101, 20)]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(
        width=LEFT + WIDTH + 170,
        height=TOP + HEIGHT + 52,
        left=LEFT,
        top=TOP,
        w=WIDTH,
        h=HEIGHT,
        ticks=ticks,
        curve="L".join(f"{p['x']} {p['y']}" for p in path),
        points=points,
    )


def _at(general: float, skill: float) -> tuple[float, float]:
    return round(LEFT + WIDTH * general / 100, 1), round(TOP + HEIGHT * (1 - skill / 100), 1)
