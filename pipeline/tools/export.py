"""Write a trained network as one ONNX file that takes any batch and any size, and check it against torch.

    python -m pipeline.tools.export --fold 0 --size 224
    python -m pipeline.tools.export --model dynamic_unet --encoder resnet34 --untrained --to unet.onnx

reads   folds/<profile>/fold_<k>/<size>.safetensors, or nothing with --untrained
writes  <model>.onnx in the current folder, or the file named by --to

Input `image` (B, 3, H, W), grey in three equal channels, 0..1; normalisation is inside. Output `probability`
(B, 1, H, W) of salt. https://netron.app shows the file.
"""
from pathlib import Path

from pipeline.salt import artifacts, command, lineage
from pipeline.salt.command import Run
from pipeline.salt.errors import InputError

CHECKED = [(1, 101), (2, 128), (1, 224)]     # batch and side, px: Kaggle's tile, and the article's two stages
TOLERANCE = 1e-3                             # on probabilities


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("--size", type=int, metavar="PX", help="a size of the profile (default: its last)")
        parser.add_argument("--untrained", action="store_true", help="random weights, to look at the network")
        parser.add_argument("--to", type=Path, metavar="FILE", help="where the ONNX file goes (default: <model>.onnx)")
    run, args = command.parse(__doc__, argv, add)
    path = args.to or Path(f"{run.profile.model.name}.onnx")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is missing; pip install 'onnx>=1.17' 'onnxscript>=0.3' 'onnxruntime>=1.20'") from error
    from pipeline.salt.models.onnx_file import export

    model = _network(run, args.size or run.profile.train.stages[-1].size, args.untrained)
    differences = export(model, path)
