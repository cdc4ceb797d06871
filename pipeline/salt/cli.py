"""The command line that all stages share, and how a stage ends when something is wrong."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.salt import mirror
from pipeline.salt.artifacts import CODE, Files
from pipeline.salt.config import PROFILES, Profile, profile_named
from pipeline.salt.errors import InputError
from pipeline.salt.launch import ENGINES, visible_gpus
from pipeline.salt.overrides import changed
from pipeline.salt.tiles import competition

SAMPLE = "sample"
KAGGLE_INPUT = Path("/kaggle/input")


@dataclass(frozen=True)
class Run:
    """What the flags of a stage come down to.

    data     folder with Kaggle's files, None for the built-in sample
    folds    the folds to work on
    weights  where to look for ImageNet weights first, None for the usual places
    why      how the profile was chosen, in words
    """

    profile: Profile
    files: Files
    data: Path | None
    folds: tuple[int, ...]
    force: bool
    weights: Path | None
    why: str


def parse(doc: str, argv: list[str] | None, add: Callable[[argparse.ArgumentParser], object] = lambda p: None):
    """(Run, other arguments) from the flags that every stage takes and those that `add` adds."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with Kaggle's files, zipped or not, or 'sample' "
        "(default: data/, then Kaggle's mount, then the sample)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where data/, folds/ and submissions/ go: a folder, or a URL such as s3://bucket/run "
        "(default: the repository)",
    )
    parser.add_argument("--profile", metavar="NAME", help=f"{', '.join(PROFILES)} (default: by data and machine)")
    parser.add_argument("--fold", type=int, action="append", metavar="K", help="only this fold; may be repeated")
    parser.add_argument("--model", metavar="NAME", help="short for --set model.name=NAME")
    parser.add_argument("--encoder", metavar="NAME", help="short for --set model.encoder=NAME")
    parser.add_argument(
        "--weights", metavar="PATH", help="file or folder with ImageNet weights, or 'none' to train from scratch"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one number of the profile; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="redo what is up to date")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="who works: this machine, or a Ray cluster")
    parser.add_argument("--workers", type=int, metavar="N", help="folds at once (default: one a GPU, or the profile's)")
    add(parser)
    args = parser.parse_args(argv)
    return run_from(args), args


def run_from(args: argparse.Namespace) -> Run:
    out = (args.out or _default_out()).expanduser().resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {args.out}: that is a file; name a folder")
    data = _data(args.data, out)
    name, why = (args.profile, "named") if args.profile else _default_profile(data)
    short = {"model.name": args.model, "model.encoder": args.encoder}
    settings = [*(f"{name}={value}" for name, value in short.items() if value), *args.set]
    weights = None
    if args.weights == "none":
        settings.append("model.weights=none")
    elif args.weights:
        weights = Path(args.weights).expanduser().resolve()
        if not weights.exists():
            raise InputError(f"--weights {args.weights}: there is no such file or folder")
    profile = changed(profile_named(name), *settings)
    folds = tuple(sorted(set(args.fold))) if args.fold is not None else tuple(range(profile.run_folds))
    if bad := [k for k in folds if not 0 <= k < profile.folds.k]:
        raise InputError(f"--fold {bad[0]}: profile {profile.name} has folds 0 to {profile.folds.k - 1}")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: it is how many folds are worked on at once, 1 or more")
    files = Files(out, SAMPLE if data is None else data.name or "tiles", profile.name)
    return Run(profile, files, data, folds, args.force, weights, why)


def job(run: Run, args: argparse.Namespace, folds: Sequence[int]) -> list[str]:
    """The flags with which a stage does these folds itself, in any process that sees the data and --out."""
    given = vars(args) | {
        "data": run.data or SAMPLE,
        "out": run.files.out,
        "profile": run.profile.name,
        "weights": run.weights or args.weights,
        "fold": [*folds],
        "engine": None,
        "workers": None,
    }
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None and value is not False
    ]


def start(main: Callable[[list[str]], object]) -> None:
    """Run a stage from the shell: what a person can mend ends in one sentence and exit status 1, no traceback."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # timm's
    try:
        with mirror.local(sys.argv[1:]) as argv:
            main(argv)
    except InputError as e:
        sys.exit(f"error: {e}")
    except BrokenPipeError:  # whoever read our lines has seen enough: ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to go on")


def on_kaggle() -> bool:
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def _default_out() -> Path:
    return Path("/kaggle/working") if on_kaggle() else CODE.parent


def _data(named: str | None, out: Path) -> Path | None:
    if named == SAMPLE:
        return None
    if named:
        folder = Path(named).expanduser().resolve()
        if not folder.is_dir():
            if mirror.url_of(out) and Files(out, folder.name, "").cache("tiles.csv").exists():
                return folder  # another machine has decoded its tiles
            raise InputError(f"--data {named}: there is no such folder")
        if not competition.find(folder):
            raise InputError(
                f"--data {named}: none of Kaggle's files are in it (train.zip or train/images, "
                f"train.csv ...); get them with: {competition.DOWNLOAD}"
            )
        return folder
    mounts = sorted(p.parent for p in KAGGLE_INPUT.glob("**/sample_submission.csv*")) if on_kaggle() else []
    return next((folder for folder in [out / "data", CODE.parent / "data", *mounts] if competition.find(folder)), None)


def _default_profile(data: Path | None) -> tuple[str, str]:
    if data is None:
        return "demo", "no tiles of Kaggle's were found; --data names them"
    return ("blog", "there is a GPU") if visible_gpus() else ("cpu", "there is no GPU")
