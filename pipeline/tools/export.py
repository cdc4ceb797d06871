"""Write a trained network as one ONNX file that takes any batch and any size, and check it against torch.

    python -m pipeline.tools.export --fold 0 --size 224
    python -m pipeline.tools.export --model dynamic_unet --encoder resnet34 --untrained --to unet.onnx

reads   folds/<profile>/fold_<k>/<size>.safetensors; nothing with --untrained
writes  <model>.onnx in the current folder, or the file named by --to

Input `image` (B, 3, H, W), grey in three equal channels, 0..1; normalisation is inside. Output `probability`
(B, 1, H, W) of salt. https://netron.app shows the file.
"""

import importlib.util
from pathlib import Path

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt.errors import InputError

CHECKED = [(1, 101), (2, 128), (1, 224)]  # batch, and side in px: Kaggle's tile, the article's two stages
TOLERANCE = 1e-3  # on probabilities


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("--size", type=int, metavar="PX", help="a size of the profile (default: its last)")
        parser.add_argument("--untrained", action="store_true", help="random weights, to look at the network")
        parser.add_argument("--to", type=Path, metavar="FILE", help="where the file goes (default: <model>.onnx)")

    run, args = command.parse(__doc__, argv, add)
    for package in ("onnx", "onnxruntime"):
        if not importlib.util.find_spec(package):
            raise InputError(f"{package} is not installed; get it with: pip install onnx onnxruntime")

    from pipeline.salt.inspection.onnx import difference, to_onnx
    from pipeline.salt.training import checkpoints

    model, weights = checkpoints.network(run.profile.model), "random weights"
    if not args.untrained:
        stage, _ = run.profile.stage(args.size or run.profile.train.stages[-1].size)
        which = run.profile.predict.checkpoint if "last" in run.profile.kept(stage.size) else "best"
        trained = run.files.checkpoint(run.folds[0], stage.size, which)
        if not trained.exists():
            raise InputError(
                f"fold {run.folds[0]} is not trained at {stage.size} px, {artifacts.shown(trained)} is "
                f"missing: run python -m pipeline.train --fold {run.folds[0]}, or say --untrained"
            )
        model, weights = checkpoints.load(trained, model), artifacts.shown(trained)
    onnx = to_onnx(model)
    for shape in CHECKED:
        found = difference(onnx, model, shape)
        print(f"check    {shape[0]} x {shape[1]} x {shape[1]} px: at most {found:.1e} from torch's probabilities")
        if not found < TOLERANCE:
            raise InputError(
                f"the exported network differs from torch's by {found:.1e} at {shape[1]} px, more than "
                f"{TOLERANCE}; nothing was written"
            )
    path = args.to or Path(f"{run.profile.model.name}.onnx")
    artifacts.replace_file(path, lambda tmp: tmp.write_bytes(onnx))
    print(f"export   {path}: {len(onnx) / 1e6:.1f} MB, {weights}")


if __name__ == "__main__":
    command.start(main)
