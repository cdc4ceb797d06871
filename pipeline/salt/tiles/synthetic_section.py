"""Generate a seismic section: folded and faulted layers, and a salt body that cuts through them.

Lengths are in px of a tile; the vertical axis comes first and points down.
"""

import numpy as np
from scipy import ndimage

SHAPE = (303, 404)  # three tiles deep, four wide


def make_section(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random section: amplitudes (303, 404), zero on average, and salt (303, 404) bool."""
    wavelength = np.exp(rng.uniform(np.log(5), np.log(22)))
    salt = np.zeros(SHAPE, bool)
    while not 0.1 < salt.mean() < 0.9:
        body = BODIES[rng.choice(len(BODIES), p=BODY_SHARES)]
        salt[:] = body(rng)
    distance = np.where(salt, 0.5 - ndimage.distance_transform_edt(salt), ndimage.distance_transform_edt(~salt) - 0.5)

    layers = _layers(rng, _bent_depth(rng, distance), wavelength)
    chaos = _texture(rng, wavelength)
    broken = np.clip(0.5 * _field(rng, 80) - rng.uniform(0, 1.2), 0.1, 0.8)  # layers fade here and there
    outside = layers * (1 - broken) + chaos * broken
    inside = _texture(rng, 1.3 * wavelength) * rng.uniform(0.1, 0.4) + 0.05 * layers

    inner = 1 / (1 + np.exp(np.clip(distance, -30, 30)))  # the band limit blurs the edge by a pixel or two
    facing = 0.5 - np.gradient(ndimage.gaussian_filter(distance, 2), axis=0)  # 1.5 top, 0.5 flank, -0.5 base
    edge = _ricker(distance / wavelength) * facing * np.exp(0.5 * _field(rng, 40)) * rng.uniform(1, 2.5)
    noise = rng.uniform(0.05, 0.35) * _texture(rng, rng.uniform(3, wavelength))
    return outside * (1 - inner) + inside * inner + edge + noise, salt


# ---- salt bodies


def _diapir(rng: np.random.Generator) -> np.ndarray:
    """(303, 404) bool: a leaning stem with a bulb on top; its rough flanks cross many tiles."""
    z, x = _grid()
    top, neck = rng.uniform(-60, 150), rng.uniform(40, 120)
    below = np.clip((z + 6 * _field(rng, 20) - top) / neck, 0, None)
    width = (
        rng.uniform(25, 90) * np.sqrt(np.minimum(below, 1)) * (1 + rng.uniform(0, 1) * np.exp(-((below - 0.6) ** 2)))
    )
    centre = rng.uniform(60, 340) + rng.uniform(-0.6, 0.6) * (z - 150)
    return np.abs(x - centre + rng.uniform(1, 10) * _field(rng, 30)) < width


def _wall(rng: np.random.Generator) -> np.ndarray:
    """(303, 404) bool: an upright wall through the whole section; in its tiles' masks, columns are full or empty."""
    _, x = _grid()
    return np.abs(x - rng.integers(60, 340)) < rng.integers(20, 90)


def _sheet(rng: np.random.Generator) -> np.ndarray:
    """(303, 404) bool: a sheet between a rough top and a base that may lie below the section."""
    z, _ = _grid()
    top = rng.uniform(20, 220) + rng.uniform(10, 50) * _line(rng, 90) + rng.uniform(0, 4) * _line(rng, 6)
    base = top + rng.uniform(10, 300) + rng.uniform(5, 60) * _line(rng, 70)
    return (z > top) & (z < base)


def _blob(rng: np.random.Generator) -> np.ndarray:
    return _field(rng, rng.uniform(50, 110)) > rng.uniform(0.2, 0.8)


BODIES, BODY_SHARES = [_diapir, _sheet, _blob, _wall], [0.4, 0.3, 0.2, 0.1]


# ---- the rock around and inside the salt


def _bent_depth(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """(303, 404) original depth of the rock at each pixel, before dip, folding, drag by the salt and faults."""
    z, x = _grid()
    depth = z + rng.normal(0, 0.25) * x + rng.uniform(0, 25) * _field(rng, 120)
    depth = depth + rng.uniform(0, 80) * np.exp(-np.maximum(distance, 0) / rng.uniform(20, 60))
    for _ in range(rng.integers(0, 5)):
        right = x - rng.uniform(0, 404) - rng.uniform(-0.8, 0.8) * (z - 150)
        depth = depth + rng.uniform(-8, 8) * np.tanh(right / 2)
    return depth


def _layers(rng: np.random.Generator, depth: np.ndarray, wavelength: float) -> np.ndarray:
    """(303, 404) reflections from layered rock; their strength varies along the layers."""
    z = np.arange(np.floor(depth.min()), np.ceil(depth.max()) + 1)
    wavelet = _ricker(np.arange(-2 * wavelength, 2 * wavelength + 1) / wavelength)
    total = np.zeros_like(depth)
    for _ in range(2):
        reflectors = rng.laplace(size=len(z)) * np.exp(0.7 * rng.normal(size=len(z)))
        trace = np.convolve(reflectors, wavelet, mode="same")
        total = total + np.interp(depth, z, trace / trace.std()) * np.exp(0.5 * _field(rng, 70))
    return total / 1.5


def _texture(rng: np.random.Generator, wavelength: float) -> np.ndarray:
    """(303, 404) noise of unit variance without layers, with a grain that suits the wavelength."""
    sigma = wavelength / 4.5
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), (sigma, sigma * rng.uniform(1, 2.5)))
    noise -= ndimage.uniform_filter(noise, int(2 * wavelength))
    return noise / noise.std()


def _ricker(t: np.ndarray) -> np.ndarray:
    """Ricker wavelet at t, in wavelengths of its peak frequency."""
    a = (np.pi * t) ** 2
    return (1 - 2 * a) * np.exp(-a)


def _field(rng: np.random.Generator, length: float) -> np.ndarray:
    """(303, 404) smooth random field of unit variance, correlated over `length`."""
    down, right = (_bumps(n, length) for n in SHAPE)
    weights = rng.normal(size=(down.shape[1], right.shape[1]))
    # Not `down @ weights @ right.T`: BLAS rounds differently on each machine, and its threads wait for each other.
    return np.einsum("zk,xk->zx", np.einsum("zk,kl->zl", down, weights), right)


def _line(rng: np.random.Generator, length: float) -> np.ndarray:
    """(404,) smooth random line, like a row of `_field`."""
    right = _bumps(SHAPE[1], length)
    return right @ rng.normal(size=right.shape[1])


def _bumps(n: int, length: float) -> np.ndarray:
    """(n, K) weights for K normal random numbers, one per half length, whose weighted sums have unit variance."""
    centres = np.arange(-2 * length, n + 2 * length, length / 2)
    bumps = np.exp(-(((np.arange(n)[:, None] - centres) / (0.7 * length)) ** 2))
    return bumps / np.linalg.norm(bumps, axis=1, keepdims=True)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    down, right = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return down, right
