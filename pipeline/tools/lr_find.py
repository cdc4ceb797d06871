"""Find a learning rate: raise it batch by batch on one fold, and plot the loss against it.

    python -m pipeline.tools.lr_find
    python -m pipeline.tools.lr_find --phase 224 --fold 3

reads   what training in that phase, with the same flags, would read
writes  folds/<run>/fold_<k>/<phase>.lr_find.png
"""

import tempfile

from pipeline.salt import cli, disk, stages


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(__doc__, argv, cli.add_phase_flags)
    train, fold = run.profile.train, cli.only_fold(run, args)
    phase = train.phase(args.phase) if args.phase else train.phases[0]
    stages.trained(run, fold, phase)["history"].origin()  # raises for missing inputs before the slow imports

    import matplotlib

    matplotlib.use("Agg")
    from fastai.callback.schedule import SuggestionMethod
    from fastai.learner import Recorder
    from matplotlib import pyplot as plt

    from pipeline.salt.device import enough_memory
    from pipeline.salt.training.fold import set_up_fold
    from pipeline.salt.training.learner import build_learner

    start = set_up_fold(run, fold, phase)
    with tempfile.TemporaryDirectory() as scratch:
        learn = build_learner(start.model, start.dls, phase, train, [Recorder()], path=scratch)
        with learn.no_bar(), enough_memory("lr_find", f"train.{phase.name}.batch", phase.batch):
            rates = learn.lr_find(suggest_funcs=(SuggestionMethod.Valley, SuggestionMethod.Steep))
    plt.title(f"{run.files.run}, fold {fold}, phase {phase.name}: the profile has lr {phase.lr:g}")
    plt.axvline(phase.lr, color="0.5", linestyle=":")
    path = run.files.lr_find(fold, phase)
    with disk.replacing(path) as tmp:
        plt.savefig(tmp, dpi=120)
    print(
        f"lr_find  {disk.display_path(path)}: valley {rates.valley:.1e}, steepest {rates.steep:.1e}, "
        f"the profile has {phase.lr:g}"
    )


if __name__ == "__main__":
    cli.start(main)
