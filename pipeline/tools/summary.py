"""A network as a table: its parts, the shape of what each gives, parameters, multiply-adds.

    python -m pipeline.tools.summary
    python -m pipeline.tools.summary --model dynamic_unet --encoder resnet34 --size 224

prints  one line a part, in the order in which they work; nothing is computed, only shapes are
"""

from pipeline.salt import cli as command


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(
        __doc__,
        argv,
        lambda p: p.add_argument(
            "--size", type=int, metavar="PX", help="side of the image (default: the profile's first size)"
        ),
    )
    import torch

    from pipeline.salt.inspection.trace import trace
    from pipeline.salt.models import build_model

    settings, size = run.profile.model, args.size or run.profile.train.stages[0].size
    with torch.device("meta"):
        parts = trace(build_model(settings.name, settings.encoder, settings.options), size)
    print(f"{settings.name} on {settings.encoder}, one image of {size} x {size} px\n")
    print(table(parts))


def table(parts) -> str:
    """The parts as lines of text, and their sum."""
    rows = [("part", "layers", "output", "parameters", "trainable", "multiply-adds")]
    for part in parts:
        shape = " x ".join(f"{n:>4}" for n in part.shape)
        rows.append((part.title, part.kind, shape, *_numbers([part])))
    rows.append(("total", "", "", *_numbers(parts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                name.ljust(widths[0]),
                layers.ljust(widths[1]),
                *(cell.rjust(width) for cell, width in zip(cells, widths[2:], strict=True)),
            ]
        )
        for name, layers, *cells in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _numbers(parts) -> list[str]:
    parameters, trainable, macs = (sum(getattr(p, key) for p in parts) for key in ("parameters", "trainable", "macs"))
    return [f"{parameters:,}", f"{trainable:,}", f"{macs / 1e6:,.1f} M"]


if __name__ == "__main__":
    command.start(main)
