"""The command line shared by all stages and tools: parses flags into a Run, and turns errors into exit messages."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path

from pipeline.salt.config import PROFILES, Profile, profile_named
from pipeline.salt.disk import FULL
from pipeline.salt.distributed import is_main_process, visible_gpus
from pipeline.salt.errors import InputError, Stopped, reason
from pipeline.salt.kaggle import WORKING, competition_mounts, on_kaggle
from pipeline.salt.launch import ENGINES
from pipeline.salt.models import check_model, check_options
from pipeline.salt.overrides import appended, changed, describe
from pipeline.salt.run import SAMPLE, TRACKERS, Files, Run, source_name
from pipeline.salt.stopping import Terminated, terminating_like_ctrl_c
from pipeline.salt.tiles import competition, folder

FLAGS: dict[str, dict] = {
    "data": {
        "metavar": "DIR",
        "help": "folder with Kaggle's files, zipped or not, or with your own images/ and masks/; or 'sample' "
        "(default: data/, Kaggle's mount or the sample, whichever is found first)",
    },
    "out": {"metavar": "DIR", "help": "where data/, folds/ and submissions/ go (default: the current folder)"},
    "profile": {"metavar": "NAME", "help": f"{', '.join(PROFILES)} (default: chosen by data and machine)"},
    "run": {"metavar": "NAME", "action": "append", "help": "name of this run (default: the profile's name)"},
    "fold": {"metavar": "K", "type": int, "action": "append", "help": "only this fold; may be repeated"},
    "model": {"metavar": "NAME", "help": "short for --set model.name=NAME"},
    "encoder": {"metavar": "NAME", "help": "short for --set model.encoder=NAME"},
    "weights": {"metavar": "PATH", "help": "file or folder with ImageNet weights, or 'none' to train from scratch"},
    "set": {
        "metavar": "NAME=VALUE",
        "action": "append",
        "default": [],
        "help": "change one setting of the profile; may be repeated; 'help' lists them all",
    },
    "add-phase": {
        "metavar": "NAME=VALUE,...",
        "action": "append",
        "default": [],
        "help": "one more training phase: the last one with changes, such as size=256,epochs=10",
    },
    "force": {"action": "store_true", "help": "redo what is up to date, and replace what was made with other settings"},
    "engine": {
        "choices": ENGINES,
        "default": "local",
        "help": "where the work is done: on this machine, or on a Ray cluster",
    },
    "workers": {
        "metavar": "N",
        "type": int,
        "help": "folds at once (default: one per GPU; without GPUs, the profile's number)",
    },
    "max-hours": {
        "metavar": "H",
        "type": float,
        "help": "save and stop after H hours; a training stops after the last epoch that fits",
    },
    "started": {
        "type": float,
        "help": argparse.SUPPRESS,
    },  # time.time() when the hours of --max-hours began; run_all.sh and workers pass it on
    "track": {"choices": TRACKERS, "help": "tool that follows the training as it runs, through fastai's own callback"},
}
MODEL_FLAGS = ("profile", "model", "encoder", "set", "add-phase")  # for tools that only need a model
RUN_FLAGS = tuple(flag for flag in FLAGS if flag != "force")  # for tools that read a run: all that its stages take


def parse(
    doc: str | None,
    argv: list[str] | None,
    add: Callable[[argparse.ArgumentParser], object] = lambda p: None,
    flags: Collection[str] = tuple(FLAGS),
    several_runs: bool = False,
) -> tuple[Run, argparse.Namespace]:
    """Parse the command line: the run, and all arguments.

    doc           shown by --help
    add           adds the command's own flags to the parser
    flags         those of FLAGS that the command takes; the others keep their defaults
    several_runs  --run may be given more than once: `args.run` lists the names, and the Run is that of the first
    InputError for a value that is not allowed.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, options in FLAGS.items():
        if name in flags:
            parser.add_argument(f"--{name}", **options)
        else:
            parser.set_defaults(**{name.replace("-", "_"): options.get("default")})
    add(parser)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}{_hint(unknown[0])}")
    if "help" in args.set:
        args.set = [setting for setting in args.set if setting != "help"]
        print(describe(run_from(args, reads_tiles=False).profile))
        parser.exit()
    if args.run and args.run[1:] and not several_runs:
        raise InputError(
            f"--run is given {len(args.run)} times ({', '.join(args.run)}), but this command works on one run; only "
            "python -m pipeline.submit takes several, and joins them"
        )
    return run_from(args, reads_tiles="data" in flags), args


def add_phase_flags(parser: argparse._ActionsContainer) -> None:
    """Add --phase NAME, and --size PX, which means the same: by default a phase is named after its size."""
    parser.add_argument("--phase", metavar="NAME", help="one phase of the profile, by name")
    parser.add_argument("--size", dest="phase", metavar="PX", help="one phase, by its size in px")


def only_fold(run: Run, args: argparse.Namespace) -> int:
    """The fold for a tool that works on one: the first, or the one --fold names. InputError if --fold is repeated."""
    if args.fold and args.fold[1:]:
        raise InputError(f"--fold is given {len(args.fold)} times; this tool takes one fold")
    return run.folds[0]


def run_from(args: argparse.Namespace, reads_tiles: bool = True) -> Run:
    """The run that these flags describe. InputError for a value that is not allowed.

    reads_tiles  whether tiles that still have to be unpacked are an error
    """
    out = _folder("--out", args.out) if args.out is not None else _default_out()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {args.out}: that is a file; name a folder")
    data = _data(args.data, out, reads_tiles)
    name, why = (args.profile, "named") if args.profile is not None else _default_profile(data)
    short = {"model.name": args.model, "model.encoder": args.encoder}
    args.set = [_with_whole_path(setting) for setting in args.set]
    settings = [*(f"{key}={value}" for key, value in short.items() if value is not None), *args.set]
    weights = None
    if args.weights == "none":
        settings.append("model.weights=none")
    elif args.weights is not None:
        weights = _folder("--weights", args.weights)
        if not weights.exists():
            raise InputError(f"--weights {args.weights}: there is no such file or folder")
        # A file is meant for this run, even if its profile trains from scratch; a folder may serve many runs.
        if weights.is_file():
            settings.insert(0, "model.weights=imagenet")
    own_data = data is not None and folder.find(data)
    profile = changed(appended(profile_named(name, own_data), *args.add_phase), *settings)
    if profile.tiles.side != "whole" and not own_data:
        raise InputError(f"tiles.side={profile.tiles.side}: only images of your own are cut into tiles; leave it out")
    check_rules(profile)
    model, own = profile.model, profile_named(name).model
    check_options(model.name, model.options)
    if (model.name, model.encoder) != (own.name, own.encoder):  # checking an encoder of timm's imports torch
        check_model(model.name, model.encoder, model.options)
    folds = tuple(sorted(set(args.fold))) if args.fold is not None else tuple(range(profile.run_folds))
    if bad := [k for k in folds if not 0 <= k < profile.folds.k]:
        raise InputError(f"--fold {bad[0]}: profile {profile.name} has folds 0 to {profile.folds.k - 1}")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: give the number of folds to work on at once, 1 or more")
    if args.max_hours is not None and not args.max_hours >= 0:
        raise InputError(f"--max-hours {args.max_hours:g}: give the time to work in hours, 0 or more")
    started = None if args.max_hours is None else args.started or time.time()
    titles = args.run or [profile.name]
    for title in titles:
        check_run_name(title, "--run ")
    if args.track and find_spec(args.track) is None:
        raise InputError(f"--track {args.track} needs the package {args.track}: pip install {args.track}")
    return Run(
        profile=profile,
        files=Files(out, source_name(data, profile.tiles), titles[0]),
        data=data,
        own_data=own_data,
        folds=folds,
        force=bool(args.force),
        weights=weights,
        reason=why,
        engine=args.engine,
        workers=args.workers,
        track=args.track,
        deadline=math.inf if started is None else time.monotonic() + started - time.time() + 3600 * args.max_hours,
        flags=_flags(
            args,
            data=data or SAMPLE,
            out=out,
            profile=name,
            run=titles[0],
            weights=weights or args.weights,
            started=started,
        ),
    )


def check_run_name(name: str, flag: str = "") -> None:
    """InputError if this cannot be the name of a run; flag: the flag that gave it, to begin the message."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") or len(name.encode()) > 100:
        raise InputError(
            f"{flag}{name!r}: a run's name becomes a folder; use letters, digits, '_', '-' and '.', 100 bytes at most"
        )


def start(main: Callable[[list[str]], object]) -> None:
    """Run a stage from the shell: InputError ends it with one sentence and exit status 1, Stopped with its own status.

    SIGTERM ends it with 143 and Ctrl-C with 130, as is usual in a shell.
    """
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # timm's
    try:
        with terminating_like_ctrl_c():
            main(sys.argv[1:])
            print(end="", flush=True)  # so that a failing write raises here, not at exit
    except InputError as e:
        sys.exit(f"error: {e}")
    except Stopped as e:
        if is_main_process():
            print(f"stopped  {e}")
        sys.exit(e.status)
    except OSError as e:
        if isinstance(e, BrokenPipeError):  # the reader closed the pipe: ... | head
            _give_up_output()
            sys.exit(128 + signal.SIGPIPE)
        elif e.errno in FULL:  # not while writing an artifact: `disk.writing` reports that
            _give_up_output()
            sys.exit(f"error: no space left to write {e.filename or 'what this command prints'}; free some")
        elif isinstance(e, PermissionError) and e.filename:  # not while writing an artifact, as above
            sys.exit(f"error: {e.filename}: permission denied; change its permissions, or name another")
        else:
            raise
    except KeyboardInterrupt as e:
        print("stopped; what is finished or saved is kept, and the same command does the rest", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(e, Terminated) else signal.SIGINT))


def _give_up_output() -> None:
    """Send stdout to nowhere, so that what could not be printed does not raise again when Python exits."""
    with contextlib.suppress(OSError):
        print(end="", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flags(args: argparse.Namespace, **resolved) -> tuple[str, ...]:
    """The command line that gives these arguments to another process, without folds, engine and workers."""
    given = vars(args) | resolved | {"fold": None, "engine": None, "workers": None}
    return tuple(
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None and value is not False
    )


def _with_whole_path(setting: str) -> str:
    """The setting, with folds.file's path made absolute: processes that run in other folders read it too."""
    name, _, value = setting.partition("=")
    return f"{name}={_folder(f'--set {name}', value)}" if name == "folds.file" and value else setting


def _hint(flag: str) -> str:
    """The end of a message about an unknown flag: '; did you mean --set train.lr=...?' if it names a setting."""
    name = flag.lstrip("-").partition("=")[0].replace("-", "_")
    paths = [line.split()[0] for line in describe(PROFILES["demo"]).splitlines()]
    known = dict.fromkeys(re.sub(r"^train\.\d+\.", "train.", path) for path in paths)
    near = [path for path in known if name in (path, path.rpartition(".")[2])]
    return f"; did you mean --set {near[0]}=...?" if near else "; --help lists the flags, --set help the settings"


def check_rules(profile: Profile) -> None:
    """InputError for rules in the `submit` section that do not apply to these tiles."""
    rules = profile.submit
    if profile.tiles.side != "whole" and (rules.black_empty or rules.full_empty or rules.peak):
        raise InputError(
            "submit.black_empty, full_empty and peak are for whole images, not for cut ones; leave them out"
        )


def _folder(flag: str, text: str) -> Path:
    """The path that a flag names, resolved. InputError if it cannot be a path."""
    if not text.strip():
        raise InputError(f"{flag} is empty; name a folder, or leave the flag out")
    try:
        path = Path(text).expanduser().resolve()
        path.exists()
    except (RuntimeError, OSError, ValueError) as e:
        shown = text[:80] if text.isprintable() else repr(text[:80])
        raise InputError(f"{flag} {shown}{'...' * (len(text) > 80)}: {reason(e)}; name a folder") from e
    return path


def _default_out() -> Path:
    return WORKING if on_kaggle() else Path.cwd()


def _data(named: str | None, out: Path, reads_tiles: bool) -> Path | None:
    if named == SAMPLE:
        return None
    if named is not None:
        path = _folder("--data", named)
        if not path.is_dir():
            what = "that is a file; name its folder" if path.exists() else "there is no such folder"
            raise InputError(f"--data {named}: {what}")
        if not (competition.find(path) or folder.find(path)):
            raise InputError(
                f"--data {named}: none of Kaggle's files are in it (train.zip or train/images, train.csv ...), nor "
                "images/ and masks/ of your own; "
                + (competition.hint(path) or folder.hint(path) or f"get Kaggle's with: {competition.DOWNLOAD}")
            )
        return path
    places = [out / "data", Path("data").resolve(), *(competition_mounts() if on_kaggle() else [])]
    # An earlier session's output may be mounted too; generated tiles in it are not the competition's.
    found = (path for path in places if competition.find(path) or folder.find(path))
    if data := next((path for path in found if not competition.is_sample(path)), None):
        return data
    for path in places[:2] if reads_tiles else []:
        if unpack := competition.packed(path):
            raise InputError(f"{path}: {unpack}; or give --data sample, for the built-in tiles")
    return None


def _default_profile(data: Path | None) -> tuple[str, str]:
    if data is None:
        return "demo", "no tiles of Kaggle's were found; --data names them"
    return ("blog", "there is a GPU") if visible_gpus() else ("cpu", "there is no GPU")
