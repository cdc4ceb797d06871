"""Adds up the logits of several models in files, saves the sums when stopped, turns them into probabilities."""

from pathlib import Path

import numpy as np
import torch

from pipeline.salt import artifacts, disk, environment
from pipeline.salt.parts import slices


class LogitSums:
    """Sums of the logits of N tiles, and which models have predicted them.

    They are kept in unnamed files in a folder, so memory does not grow with N.
    """

    def __init__(self, shape: tuple[int, int, int], folder: Path, count_votes: bool = False):
        """shape  (N, H, W);  count_votes  count the masks in which a pixel is salt: 2 bytes per pixel"""
        self.count_votes = count_votes
        self.sums = disk.zeros(shape, np.float32, folder)
        self.votes = disk.zeros(shape if count_votes else (0,), np.uint16, folder)
        self.models = np.zeros(shape[0], np.float32)  # number that have predicted a tile
        self.reached = np.zeros(shape[0], np.int32)  # the last job that has, counted from 1

    def left(self, rows: np.ndarray, job: int) -> np.ndarray:
        """The rows that this job has not predicted yet."""
        return rows[self.reached[rows] < job]

    def done(self, job: int) -> int:
        """Number of tiles that this job was the last to predict."""
        return int((self.reached == job).sum())

    def add(self, rows: np.ndarray, logits: np.ndarray, job: int) -> None:
        """rows  (B,) int, each once;  logits  (B, H, W) float32"""
        self.sums[rows] += logits
        if self.count_votes:
            self.votes[rows] += logits > 0
        self.models[rows] += 1
        self.reached[rows] = job

    def write(self, path: Path) -> np.ndarray:
        """Write the sigmoid of the mean logits to a .npy file, (N, H, W) float16; NaN where no model predicted.

        return  `disagreement` (N,) of each tile's models; NaN if votes are not counted
        """
        disagreements = np.full(len(self.sums), np.nan, np.float32)
        out = np.lib.format.open_memmap(path, "w+", np.float16, self.sums.shape)
        with open(path, "r+b") as f:
            disk.reserve(f.fileno())
        for part in slices(len(self.sums), self.sums.shape[1:]):
            with np.errstate(invalid="ignore"):  # 0 / 0 where no model predicted
                out[part] = probabilities(self.sums[part] / self.models[part, None, None])
                if self.count_votes:
                    disagreements[part] = disagreement(self.votes[part], self.models[part])
        out.flush()
        return disagreements

    def save(self, path: Path, origin: artifacts.Origin) -> None:
        """Save everything to a file, for `load`."""
        with artifacts.publish(path, origin) as tmp, open(tmp, "wb") as file:
            for array in self._arrays():
                file.write(array.data)

    def load(self, path: Path, origin: artifacts.Origin) -> None:
        """Load what `save` kept, if it is whole and of this origin; print that it was loaded, or why not."""
        if damage := artifacts.damage_of(path, hashed=True):
            print(f"restart  {damage}: this prediction starts over")
        elif artifacts.is_fresh(path, origin):
            print(f"resume   {disk.display_path(path)}")
            made_with = (artifacts.read_sidecar(path) or {})["versions"]
            if others := environment.differences(made_with, environment.versions()):
                print(f"note     it was made with {others}: the result may differ from that of a single environment")
            with open(path, "rb") as file:
                for array in self._arrays():
                    file.readinto(array.data)
        elif path.exists():
            print(f"restart  {disk.display_path(path)} was made with other settings and is discarded")

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.sums, self.votes, self.models, self.reached


def disagreement(votes: np.ndarray, models: np.ndarray) -> np.ndarray:
    """(N,) share of pixels, in [0, 1], in which two of a tile's models give different masks: mean over all pairs.

    votes   (N, H, W) number of models that find salt in a pixel (logit above 0);  models  (N,) number of models
    NaN for a tile with fewer than two models.
    """
    votes, models = votes.astype(np.float32), models.astype(np.float32)
    differing = (votes * (models[:, None, None] - votes)).mean(axis=(1, 2))  # pairs of models, mean over the pixels
    return np.where(models > 1, differing / np.maximum(models * (models - 1) / 2, 1), np.nan)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits -> float16 probabilities in [0, 1]; 0 becomes exactly 0.5."""
    return torch.from_numpy(logits).sigmoid().half().numpy()
