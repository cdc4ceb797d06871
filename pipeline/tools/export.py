"""Write a trained model as one ONNX file that takes batches and images of any size, and check it against torch.

    python -m pipeline.tools.export --fold 0 --phase 224
    python -m pipeline.tools.export --model dynamic_unet --encoder resnet34 --untrained --to unet.onnx

reads   folds/<run>/fold_<k>/<phase>.safetensors; nothing with --untrained
writes  <model>.onnx in the current folder, or the file named by --to

Input `image` (B, 3, H, W): grey in three equal channels, 0..1; the file includes the normalisation. Output
`probability` (B, 1, H, W): of salt. https://netron.app shows the file.
"""

import importlib.util
from pathlib import Path

from pipeline.salt import cli, disk, published
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError

CHECKED = [(1, 101), (2, 128), (1, 224)]  # (batch, side in px): Kaggle's tile, the article's two sizes
TOLERANCE = 1e-3  # on probabilities


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        cli.add_phase_flags(parser)
        parser.add_argument("--untrained", action="store_true", help="use random weights, just to look at the model")
        parser.add_argument("--to", type=Path, metavar="FILE", help="where the file goes (default: <model>.onnx)")

    run, args = cli.parse(__doc__, argv, add, cli.RUN_FLAGS)
    fold = cli.only_fold(run, args)
    for package in ("onnx", "onnxruntime"):
        if not importlib.util.find_spec(package):
            raise InputError(f"{package} is not installed; get it with: pip install onnx onnxruntime")

    from pipeline.salt.inspection.onnx import difference, to_onnx
    from pipeline.salt.models import build_model
    from pipeline.salt.training import checkpoints

    settings = run.profile.model
    model, weights = build_model(settings.name, settings.encoder, settings.options), "random weights"
    if not args.untrained:
        train = run.profile.train
        phase = train.phase(args.phase) if args.phase else train.last
        epoch = run.profile.predict.checkpoint if "last" in train.epochs_kept(phase) else "best"
        try:
            trained = published.trained_file(run, fold, phase, epoch)
        except InputError as e:
            raise InputError(f"{e}; or give --untrained") from e
        model, weights = checkpoints.load(trained, model), display_path(trained)
    onnx = to_onnx(model)
    for shape in CHECKED:
        error = difference(onnx, model, shape)
        print(f"check    {shape[0]} x {shape[1]} x {shape[1]} px: at most {error:.1e} from torch's probabilities")
        if not error < TOLERANCE:
            raise InputError(
                f"the exported model differs from torch's by {error:.1e} at {shape[1]} px, more than "
                f"{TOLERANCE}; nothing was written"
            )
    path = args.to or Path(f"{run.profile.model.name}.onnx")
    with disk.replacing(path) as tmp:
        tmp.write_bytes(onnx)
    print(f"export   {path}: {len(onnx) / 1e6:.1f} MB, {weights}")


if __name__ == "__main__":
    cli.start(main)
