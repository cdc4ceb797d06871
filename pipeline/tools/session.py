"""Check a Kaggle session: versions, GPUs, disk, what is mounted, and what to attach; run its stages until time is up.

    python -m pipeline.tools.session        the checks, with a convolution on each GPU

prints  a line for each check; where you have to do something, it begins with `choose` or `attach`
The notebooks that tools.notebook writes call `Session`, which runs the stages and shows the results.
"""

import gzip
import html
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.salt import checks, cli, disk, kaggle, stages
from pipeline.salt.artifacts import CODE
from pipeline.salt.checks import OK
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.launch.local import python_path
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache

ON_KAGGLE = {  # what to do if this check is not ok
    "gpu": "choose   Settings > Accelerator > GPU T4 x2, if you want to train",
    "tiles": "attach   Add Input > Competitions > TGS Salt Identification Challenge (accept its rules first)",
    "weights": "attach   a data set with them (python -m pipeline.tools.notebook --weights FILE makes one), or "
    "turn on Settings > Internet",
}
WEIGHTS = CODE.parents[1] / "weights"  # lies beside the code in the data set that tools.notebook makes


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    print(f"code     {CODE.parent}")
    for finding in checks.of_machine(run):
        print(f"{finding.subject:<8} {finding.text}")
        if finding.mark != OK:
            print(ON_KAGGLE.get(finding.subject, f"fix      {finding.remedy}"))
    _print_earlier(run)
    print(f"profile  {run.profile.name}: {run.profile.about} ({run.reason}); folds {', '.join(map(str, run.folds))}")


def _print_earlier(run: Run) -> None:
    """Print what earlier sessions have made of this run."""
    outputs = kaggle.earlier_outputs(run.files.run)
    for out in outputs:
        of_folds = (out / "folds" / run.files.run).glob("fold_*/*")
        files = [path for path in of_folds if not path.name.startswith("pseudo_")]
        trained, states = (sum(path.name.endswith(end) for path in files) for end in (".csv.json", ".resume.pt"))
        print(f"earlier  {out}: run {run.files.run}, {trained} trainings finished, {states} under way")
    if not outputs:
        print(f"earlier  no attached output has a run {run.files.run}: this one begins it")


class Session:
    """What the cells of a notebook call, in this order: preflight, each stage, show_report, keep, finish, is_done.

    flags   of the stages, as on a command line
    A stage runs in a process of its own, so that none keeps a GPU's memory. Once a stage has ended early, because
    --max-hours is over or because it failed, later stages are not run; the notebook itself still succeeds, so that
    Kaggle keeps its output.
    """

    def __init__(self, flags: str = ""):
        self.flags = [f"--started={time.time():.0f}", *shlex.split(flags)]
        if "--weights" not in flags and WEIGHTS.is_dir():
            self.flags.append(f"--weights={WEIGHTS}")
        self.late, self.failed = False, ""

    def preflight(self) -> None:
        """Print versions, GPUs, disk, what is mounted where, and what to attach."""
        self.stage("tools.session")

    def stage(self, name: str, *flags: str) -> None:
        """Run a stage and pass its output on; only a stage that has failed can be run again after a failure."""
        command = " ".join([name, *flags])  # tells train from train --pseudo
        if self.late or self.failed not in ("", command):
            print(
                f"waits    {name}: " + ("for the next session" if self.late else f"{self.failed} has failed, see above")
            )
            return
        with subprocess.Popen(
            [sys.executable, "-P", "-m", f"pipeline.{name}", *self.flags, *flags],
            env=os.environ | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout
            for line in process.stdout:
                print(line, end="", flush=True)
        self.late = process.returncode == Stopped.status
        self.failed = command if process.returncode and not self.late else ""

    def show_report(self) -> None:
        """Display the report's page in the notebook."""
        if not self.is_done():
            print("waits    the report")
            return
        from IPython.display import HTML, display

        page = html.escape(stages.report(self._run())[-1].file().read_text(encoding="utf-8"))
        display(HTML(f'<div><iframe srcdoc="{page}" style="width: 100%; height: 900px; border: 0"></iframe></div>'))

    def keep(self) -> None:
        """Replace links to earlier sessions' files by the files, so that this session's output has the whole run."""
        if self.failed == "tools.session":  # the flags are wrong
            return
        try:
            if count := kaggle.keep(self._run().files):
                print(f"kept     {count} files of earlier sessions: this output now has the whole run")
        except InputError as e:
            print(f"note     {e}; the next session needs this output and the earlier ones")

    def finish(self) -> None:
        """Put the submission where Kaggle looks for it, or print what to do next."""
        if self.failed:
            print(f"failed   {self.failed}: the error is above; fix it, and run the notebook again")
        elif self.late:
            print(
                "stopped  The time of this session is over; its output has all that is done. To go on: Save Version, "
                "open the notebook again, Add Input > Your Work > this notebook's output, Run All."
            )
        else:
            run = self._run()
            if run.data is None:
                print(
                    "ready    the demo. Its tiles are generated, and Kaggle scores only the competition's: Add Input > "
                    "the competition, then Run All"
                )
                return
            with disk.replacing(run.files.kaggle_submission) as tmp:
                tmp.write_bytes(gzip.decompress(stages.submission(run).file().read_bytes()))
            print(f"ready    {run.files.kaggle_submission}: Save Version, then Submit to Competition")

    def is_done(self) -> bool:
        """Whether every stage so far has succeeded."""
        return not (self.late or self.failed)

    def run_folder(self) -> Path:
        """folds/<run>, which `load_run` takes."""
        return self._run().files.folder

    def test_images(self, n: int) -> np.ndarray:
        """The first test tiles, at most n, that are not all black: (n, H, W) or (n, H, W, 3) uint8."""
        tiles = cache.read(self._run().files)
        return tiles.test_images[np.flatnonzero(~tiles.test_table["black"])[:n]]

    def _run(self) -> Run:
        return cli.parse(__doc__, self.flags)[0]


if __name__ == "__main__":
    cli.start(main)
