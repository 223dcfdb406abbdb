"""Bars as SVG, without a library: one group a number of connections, one bar a target."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 320, 48, 48, 56
COLOURS = ("#9aa5b1", "#2f6f9f", "#58a55c", "#c98a2b")


def bars(title: str, groups: Sequence[object], series: Mapping[str, Sequence[float]]) -> str:
    """Return the drawing of `series`, each with one value a group."""
    top = max(1.0, *(value for values in series.values() for value in values)) * 1.1
    plot_width, plot_height = WIDTH - LEFT - 16, HEIGHT - TOP - BOTTOM
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = TOP + plot_height * (1 - mark / top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    group_width = plot_width / len(groups)
    width = group_width * 0.8 / len(series)
    for place, group in enumerate(groups):
        x = LEFT + group_width * (place + 0.1)
        for number, values in enumerate(series.values()):
            height = plot_height * values[place] / top
            where = f'x="{x + number * width:.1f}" y="{TOP + plot_height - height:.1f}"'
            parts.append(f'<rect {where} width="{width - 2:.1f}" height="{height:.1f}" fill="{COLOURS[number]}"/>')
        middle = x + group_width * 0.4
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{group}</text>')
    for number, label in enumerate(series):
        x = LEFT + number * 200
        parts.append(f'<rect x="{x}" y="{HEIGHT - 22}" width="12" height="12" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 18}" y="{HEIGHT - 12}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
