"""List a model's parts with output shape, parameters and multiply-adds.

    python -m pipeline.tools.summary
    python -m pipeline.tools.summary --model dynamic_unet --encoder resnet34 --size 224 --layers

prints  one line per part, in the order of the forward pass; with --layers one per layer, like fastai's learn.summary()

Only shapes are computed, no values.
"""

from pipeline.salt import cli


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("--size", type=int, metavar="PX", help="side of the image (default: the profile's first)")
        parser.add_argument("--layers", action="store_true", help="list every layer, not only the parts")

    run, args = cli.parse(__doc__, argv, add, cli.MODEL_FLAGS)
    import torch

    from pipeline.salt.inspection.summary import layers_table, parts_table
    from pipeline.salt.inspection.trace import trace
    from pipeline.salt.models import build_model

    settings, size = run.profile.model, run.profile.train.phases[0].size if args.size is None else args.size
    with torch.device("meta"):
        model = build_model(settings.name, settings.encoder, settings.options)
    table = layers_table(model, size) if args.layers else parts_table(trace(model, size))
    print(f"{settings.name} on {settings.encoder}, one image of {size} x {size} px\n\n{table}")


if __name__ == "__main__":
    cli.start(main)
