"""Raise the learning rate step by step on one fold, and draw what the loss does: where to set lr.

    python -m pipeline.tools.lr_find
    python -m pipeline.tools.lr_find --size 224 --fold 3

reads   what training at that size would read (the same flags)
writes  folds/<profile>/fold_<k>/<size>.lr_find.png
"""

import tempfile

from pipeline.salt import artifacts
from pipeline.salt import cli as command


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--size", type=int, metavar="PX", help="a size of the profile (default: its first)"),
    )
    size, fold = args.size or run.profile.train.stages[0].size, run.folds[0]

    import matplotlib

    matplotlib.use("Agg")
    from fastai.callback.schedule import SuggestionMethod
    from fastai.learner import Recorder
    from matplotlib import pyplot as plt

    from pipeline.salt.training.fold import set_up_fold
    from pipeline.salt.training.learner import build_learner

    prepared = set_up_fold(run, fold, size)
    with tempfile.TemporaryDirectory() as scratch:
        learn = build_learner(
            prepared.model, prepared.dls, prepared.stage, run.profile.train, [Recorder()], path=scratch
        )
        with learn.no_bar():
            found = learn.lr_find(suggest_funcs=(SuggestionMethod.Valley, SuggestionMethod.Steep))
    plt.title(f"{run.profile.name}, fold {fold}, {size} px: lr {prepared.stage.lr:g} is set")
    plt.axvline(prepared.stage.lr, color="0.5", linestyle=":")
    path = run.files.lr_find(fold, size)
    artifacts.replace_file(path, lambda tmp: plt.savefig(tmp, dpi=120))
    print(
        f"lr_find  {artifacts.shown(path)}: valley {found.valley:.1e}, steepest {found.steep:.1e}, "
        f"the profile has {prepared.stage.lr:g}"
    )


if __name__ == "__main__":
    command.start(main)
