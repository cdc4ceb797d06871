"""Draw a model: encoder, skips, decoder and heads, with the shape of every tensor on its arrow.

    python -m pipeline.tools.draw
    python -m pipeline.tools.draw --model dynamic_unet --encoder resnet34 --size 224 --to unet.svg

writes  <model>.svg in the current folder, or the file named by --to

Nothing is drawn by hand: the picture is traced from an image's way through the model.
"""

from pathlib import Path

from pipeline.salt import cli, disk


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("--size", type=int, metavar="PX", help="side of the image (default: the profile's first)")
        parser.add_argument("--to", type=Path, metavar="FILE", help="where the SVG goes (default: <model>.svg)")

    run, args = cli.parse(__doc__, argv, add, cli.MODEL_FLAGS)
    import torch

    from pipeline.salt.inspection.drawing import draw
    from pipeline.salt.inspection.trace import trace
    from pipeline.salt.models import build_model

    settings, size = run.profile.model, run.profile.train.phases[0].size if args.size is None else args.size
    with torch.device("meta"):
        parts = trace(build_model(settings.name, settings.encoder, settings.options), size)
    parameters, macs = sum(p.parameters for p in parts), sum(p.macs for p in parts)
    title = (
        f"{settings.name} on {settings.encoder}, one image of {size} × {size} px: {parameters:,} parameters, "
        f"{macs / 1e9:.2f} G multiply-adds"
    )
    path = args.to or Path(f"{settings.name}.svg")
    with disk.replacing(path) as tmp:
        tmp.write_text(draw(parts, title), encoding="utf-8")
    print(f"drawn    {path}")


if __name__ == "__main__":
    cli.start(main)
