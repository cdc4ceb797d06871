"""A Kaggle session: whether all it needs is there, the stages one by one until its time is up, the results.

    python -m pipeline.tools.session        versions, a convolution on each GPU, disk, what is mounted, what to attach

prints  a line for each; one that needs something done begins with `choose` or `attach`
The notebooks that tools.notebook writes call `Session`.
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

ON_KAGGLE = {  # what to do where a check finds something else than it should be
    "gpu": "choose   Settings > Accelerator > GPU T4 x2, if you mean to train",
    "tiles": "attach   Add Input > Competitions > TGS Salt Identification Challenge (accept its rules first)",
    "weights": "attach   a data set with them (python -m pipeline.tools.notebook --weights FILE makes one), or have "
    "Settings > Internet on",
}
WEIGHTS = CODE.parents[1] / "weights"  # beside the code in the data set that tools.notebook makes


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
    """What earlier sessions have made of this run."""
    outputs = kaggle.earlier_outputs(run.files.run)
    for out in outputs:
        of_folds = (out / "folds" / run.files.run).glob("fold_*/*")
        files = [path for path in of_folds if not path.name.startswith("pseudo_")]
        trained, states = (sum(path.name.endswith(end) for path in files) for end in (".csv.json", ".resume.pt"))
        print(f"earlier  {out}: run {run.files.run}, {trained} trainings finished, {states} under way")
    if not outputs:
        print(f"earlier  no session's output has a run {run.files.run}: this one begins it")


class Session:
    """What the cells of a notebook call, in this order: preflight, each stage, show_report, keep, finish, is_done.

    flags   of the stages, as on a command line
    A stage runs in a process of its own, so that none keeps a GPU's memory. After one that ends early, because the
    time of --max-hours is over or because it fails, the others wait; the notebook itself ends well, so that Kaggle
    keeps its output.
    """

    def __init__(self, flags: str = ""):
        self.flags = [f"--started={time.time():.0f}", *shlex.split(flags)]
        if "--weights" not in flags and WEIGHTS.is_dir():
            self.flags.append(f"--weights={WEIGHTS}")
        self.late, self.failed = False, ""

    def preflight(self) -> None:
        """Versions, GPUs, disk, what is mounted where, what to attach."""
        self.stage("tools.session")

    def stage(self, name: str, *flags: str) -> None:
        """Run a stage and print what it prints; one that has failed may be run again."""
        command = " ".join([name, *flags])  # train is not train --pseudo
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
        """The report's page, in the notebook."""
        if not self.is_done():
            print("waits    the report")
            return
        from IPython.display import HTML, display

        page = html.escape(stages.report(self._run())[-1].file().read_text(encoding="utf-8"))
        display(HTML(f'<div><iframe srcdoc="{page}" style="width: 100%; height: 900px; border: 0"></iframe></div>'))

    def keep(self) -> None:
        """Files of earlier sessions in the place of the links to them: this session's output then has the whole run."""
        if self.failed == "tools.session":  # these flags cannot be
            return
        try:
            if count := kaggle.keep(self._run().files):
                print(f"kept     {count} files of earlier sessions: this output alone has the whole run")
        except InputError as e:
            print(f"note     {e}; the next session needs this output and the earlier ones")

    def finish(self) -> None:
        """The submission where Kaggle looks for it, or what to do next."""
        if self.failed:
            print(f"failed   {self.failed}: what is wrong stands above; fix it, and run the notebook again")
        elif self.late:
            print(
                "stopped  The time of this session is over; all that is done is in its output. To go on: Save Version, "
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
        """Whether each stage so far has ended well."""
        return not (self.late or self.failed)

    def run_folder(self) -> Path:
        """folds/<run>, which `load_run` takes."""
        return self._run().files.folder

    def test_images(self, n: int) -> np.ndarray:
        """The first test tiles that are not all black, at most n: (n, H, W) or (n, H, W, 3) uint8."""
        tiles = cache.read(self._run().files)
        return tiles.test_images[np.flatnonzero(~tiles.test_table["black"])[:n]]

    def _run(self) -> Run:
        return cli.parse(__doc__, self.flags)[0]


if __name__ == "__main__":
    cli.start(main)
