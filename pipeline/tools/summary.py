"""A network as a table: its parts, the shape of what each gives, parameters, multiply-adds.

    python -m pipeline.tools.summary
    python -m pipeline.tools.summary --model dynamic_unet --encoder resnet34 --size 224

prints  one line a part, in the order in which they work; nothing is computed, only shapes are
"""
from pipeline.salt import command


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(__doc__, argv, lambda p: p.add_argument(
        "--size", type=int, metavar="PX", help="side of the image (default: the profile's first size)"))
    import torch

    from pipeline.salt.models import build_model
    from pipeline.salt.models.trace import trace

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
        rows.append((part.title, part.kind, shape, f"{part.parameters:,}", f"{part.trainable:,}", f"{part.macs / 1e6:,.1f} M"))
    total = [sum(numbers) for numbers in zip(*((p.parameters, p.trainable, p.macs) for p in parts), strict=True)]
    rows.append(("total", "", "", f"{total[0]:,}", f"{total[1]:,}", f"{total[2] / 1e6:,.1f} M"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


if __name__ == "__main__":
    command.start(main)
