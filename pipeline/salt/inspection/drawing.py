"""Drawing of a model: its parts (see trace.py) as an SVG of encoder, skips, decoder and heads.

The encoder goes down on the left, the decoder up on the right; parts of the same size are at the same height. An arrow
is labelled with the shape of its tensor: channels x height x width. Blue arrows are skips.
"""

from collections import defaultdict
from dataclasses import dataclass
from html import escape
from itertools import groupby

from pipeline.salt.inspection.trace import Part

BOX, GAP = (232, 62), (180, 54)  # px, width and height of a box, and of the gap between two
LEFT, TOP, LANE = 88, 118, 104  # px, margins; distance of the lines to the decoder's right
ENCODER, SKIP, DECODER, HEADS = range(4)
FILL = ["#dbeafe", "#ede9fe", "#dcfce7", "#ffedd5"]
STYLE = """
text { font: 13px Helvetica, Arial, sans-serif; fill: #111827; }
.headline { font-size: 19px; font-weight: bold; }
.name { font-size: 14px; font-weight: bold; }
.note { fill: #4b5563; }
.shape { fill: #1e3a8a; stroke: white; stroke-width: 4px; paint-order: stroke; }
rect { stroke: #6b7280; }
path { fill: none; stroke: #374151; stroke-width: 1.5px; }
.skip { stroke: #2563eb; }
.level { stroke: #d1d5db; stroke-dasharray: 2 5; }
"""


@dataclass(eq=False)
class Box:
    """x, y  px, of the upper left corner."""

    part: Part
    column: int
    x: float = 0
    y: float = 0

    @property
    def right(self) -> float:
        return self.x + BOX[0]

    @property
    def middle(self) -> float:
        return self.x + BOX[0] / 2

    def port(self, share: float) -> float:
        """y of a point on the box's side; share: 0 at the top, 1 at the bottom."""
        return self.y + share * BOX[1]


def draw(parts: list[Part], title: str) -> str:
    """Draw the parts as SVG text. title: the headline."""
    boxes = {part: Box(part, column) for part, column in _columns(parts).items()}
    levels, height = _place(boxes)
    lines = [line for box in boxes.values() for line in (*_box(box), *_outlets(box))]
    arrows, labels, width = _arrows(boxes)
    for y, side in levels:
        arrows.insert(0, f'<path class="level" d="M 12 {y} H {width - 12}"/>')
        labels.append(_text(14, y + 20, "note", f"{side} px"))
    headline, _, rest = title.partition(", ")
    labels += [_text(14, 34, "headline", headline), _text(14, 58, "note", rest)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" '
            'markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M 0 0 L 10 5 L 0 10 z" style="fill: #374151; stroke: none"/></marker></defs>',
            '<rect width="100%" height="100%" style="fill: white; stroke: none"/>',
            *arrows,
            *lines,
            *labels,
            "</svg>",
            "",
        ]
    )


def _columns(parts: list[Part]) -> dict[Part, int]:
    columns = {}
    last = [part for part in parts if part.encoder][-1]
    for part in parts:
        if part.encoder or part is parts[0]:
            columns[part] = ENCODER
        elif part.output == "deep":
            columns[part] = HEADS
        else:
            on_skip = len(part.sources) == 1 and part.sources[0] is not last and columns[part.sources[0]] == ENCODER
            columns[part] = SKIP if on_skip else DECODER
    return columns


def _place(boxes: dict[Part, Box]) -> tuple[list[tuple[float, int]], float]:
    """Place the boxes; return the upper edge and the side of each level, and the height of the picture."""
    stacks: dict[int, dict[int, list[Box]]] = defaultdict(lambda: defaultdict(list))
    for part, box in boxes.items():
        stacks[part.shape[1]][box.column].append(box)
    skips = any(box.column == SKIP for box in boxes.values())
    x = {ENCODER: LEFT, SKIP: LEFT + BOX[0] + GAP[0], DECODER: LEFT + (BOX[0] + GAP[0]) * (2 if skips else 1)}
    y, levels = TOP, []
    for side in sorted(stacks, reverse=True):
        columns = stacks[side]
        rows = max(len(columns[ENCODER]), len(columns[DECODER]), 1)
        levels.append((y - GAP[1] / 2, side))
        for column, start in ((ENCODER, 0), (DECODER, rows - 1)):
            for row, box in enumerate(columns[column]):
                box.x, box.y = x[column], y + abs(start - row) * (BOX[1] + GAP[1])
        y += rows * (BOX[1] + GAP[1])
    for box in boxes.values():
        if box.column in (SKIP, HEADS):
            box.y = boxes[box.part.sources[0]].y
            box.x = x[SKIP] if box.column == SKIP else x[DECODER] + BOX[0] + LANE * (len(_lanes(boxes)) + 1) + 16
    return levels, y


def _lanes(boxes: dict[Part, Box]) -> dict[Part, int]:
    """The decoder's parts with a source further down than the part just below; each gets a line at the right."""
    decoder = [part for part, box in boxes.items() if box.column == DECODER]
    far = [part for i, part in enumerate(decoder) if set(part.sources) & set(decoder[: max(i - 1, 0)])]
    return {part: i for i, part in enumerate(far)}


def _arrows(boxes: dict[Part, Box]) -> tuple[list[str], list[str], float]:
    arrows, labels, lanes = [], {}, _lanes(boxes)
    for part, box in boxes.items():
        sideways = sorted((boxes[s] for s in part.sources if boxes[s].column < box.column), key=lambda b: b.y)
        for source in part.sources:
            start, shape = boxes[source], " × ".join(map(str, source.shape))
            if start in sideways:
                y1, y2 = start.port(0.5), box.port((sideways.index(start) + 1) / (len(sideways) + 1))
                x1, x2 = start.right, box.x
                bend = (x2 - x1) * 0.6
                kind = "skip" if start.column < DECODER else ""
                arrows.append(_path(f"M {x1} {y1} C {x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}", kind))
                labels[source, "right"] = _text(start.right + 8, y1 + (16 if y2 < y1 else -6), "shape", shape)
            elif start.column > box.column:  # heads whose output the decoder uses: their lines join into one
                bus = start.x - 24
                arrows.append(_path(f"M {start.x} {start.port(0.75)} H {bus} V {box.port(0.3)} H {box.right}"))
            elif _next_to(start, box, boxes):
                down = start.y < box.y
                y1, y2 = (start.y + BOX[1], box.y) if down else (start.y, box.y + BOX[1])
                arrows.append(_path(f"M {start.middle} {y1} V {y2}"))
                labels[source, "along"] = _text(start.middle + 10, (y1 + y2) / 2 + 4, "shape", shape)
            else:
                lane = box.right + LANE * (lanes[part] + 1)
                arrows.append(_path(f"M {start.right} {start.port(0.5)} H {lane} V {box.port(0.75)} H {box.right}"))
                labels[source, "right"] = _text(start.right + 8, start.port(0.5) - 6, "shape", shape)
    heads = any(box.column == HEADS for box in boxes.values())
    width = max(box.right for box in boxes.values()) + (48 if heads else LANE * (len(lanes) + 1))
    return arrows, list(labels.values()), width


def _next_to(start: Box, end: Box, boxes: dict[Part, Box]) -> bool:
    """Whether no other box is between these two of one column."""
    low, high = sorted((start.y, end.y))
    return not any(low < box.y < high for box in boxes.values() if box.column == start.column)


def _box(box: Box) -> list[str]:
    part = box.part
    weights = f"{_count(part.parameters)} parameters" if part.parameters else "no parameters"
    lines = [part.kind, weights] if part.kinds else ["the model's input"]
    if part.concatenated:
        lines = [f"{part.kind}, {weights}", f"joins {_terms(part.concatenated)} = {sum(part.concatenated)} channels"]
    fill = FILL[HEADS if part.output else box.column]
    return [
        f'<rect x="{box.x}" y="{box.y}" width="{BOX[0]}" height="{BOX[1]}" rx="6" style="fill: {fill}"/>',
        _text(box.x + 10, box.y + 20, "name", part.title),
        *(_text(box.x + 10, box.y + 38 + 16 * i, "note", line) for i, line in enumerate(lines)),
    ]


def _outlets(box: Box) -> list[str]:
    """Arrows and labels of the model's outputs."""
    logits, below = f"logits, {' × '.join(map(str, box.part.shape))}", box.y + BOX[1]
    outlets = {
        "salt": [_path(f"M {box.middle} {box.y} v -34"), _text(box.middle + 10, box.y - 20, "shape", f"salt {logits}")],
        "any_salt": [
            _path(f"M {box.middle} {below} v 30"),
            _text(box.middle + 10, below + 22, "shape", "logit: is there salt?"),
        ],
        "deep": [_path(f"M {box.right} {box.port(0.5)} h 24"), _text(box.x + 10, below + 16, "shape", logits)],
    }
    return outlets.get(box.part.output, [])


def _path(d: str, kind: str = "") -> str:
    return f'<path class="{kind}" d="{d}" marker-end="url(#tip)"/>'


def _text(x: float, y: float, kind: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def _terms(numbers: tuple[int, ...]) -> str:
    """`16 + 8`, and `4 × 16 + 5 × 1` for more than two that are equal."""
    runs = [(number, len([*run])) for number, run in groupby(numbers)]
    return " + ".join(f"{n} × {number}" if n > 2 else " + ".join([str(number)] * n) for number, n in runs)


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
