"""Sections read in bands of rows: every format gives the pixels that were written, and values become grey as
documented."""

import builtins

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.salt.errors import InputError
from pipeline.salt.sections import reading
from pipeline.salt.sections.reading import open_picture
from pipeline.salt.tiles import folder
from tests.bad import builders, own

RNG = np.random.default_rng(0)
GREY, RGB = RNG.integers(0, 256, (37, 53), dtype=np.uint8), RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)


def whole(path, **line) -> np.ndarray:
    """The whole picture, read in bands of 10 rows."""
    with open_picture(path, **line) as picture:
        bands = [picture.rows(top, min(top + 10, picture.shape[0])) for top in range(0, picture.shape[0], 10)]
        image = np.concatenate(bands)
        assert image.shape == picture.shape and image.dtype == np.uint8 and picture.name.startswith(path.stem)
    return image


def save(path, image: np.ndarray, **options):
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack", **options)
    else:
        Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("image", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize(
    "name, options",
    [
        ("a.png", {}),
        ("a.npy", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "zlib"}),
        ("a.tif", {"tile": (16, 16)}),
        ("a.tif", {"byteorder": ">", "bigtiff": True}),
    ],
)
def test_bytes_stay_as_they_are(tmp_path, image, name, options):
    path = save(tmp_path / name, image, **options)
    assert np.array_equal(whole(path), image)
    with open_picture(path) as picture:
        assert picture.scale == ""


def test_colour_planes_palettes_and_bits(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(whole(tmp_path / "p.tif"), RGB)
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "p.png")
    assert np.array_equal(whole(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))
    Image.fromarray(GREY > 99).save(tmp_path / "b.png")
    assert np.array_equal(whole(tmp_path / "b.png"), (GREY > 99) * np.uint8(255))
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "a.png")
    assert np.array_equal(whole(tmp_path / "a.png"), RGB)


def tiff(image: np.ndarray, **options):
    return lambda path: tifffile.imwrite(path, image, **options)


def pillow(image: np.ndarray, mode: str = "", **options):
    return lambda path: (Image.fromarray(image).convert(mode) if mode else Image.fromarray(image)).save(path, **options)


@pytest.mark.parametrize(
    "name, write",
    [
        ("lzw.tif", pillow(GREY, compression="tiff_lzw")),  # tifffile leaves it to a package that is not here
        ("jpeg.tif", pillow(RGB, compression="jpeg")),
        ("fax.tif", pillow(GREY > 99, compression="group4")),
        ("cmyk.tif", pillow(RGB, "CMYK")),
        ("palette.tif", pillow(GREY, "P")),
        ("white_first.tif", tiff(GREY, photometric="miniswhite")),
        ("planes.tif", tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")),
        (
            "smaller_copy.tif",
            lambda path: [
                tifffile.imwrite(path, GREY),
                tifffile.imwrite(path, GREY[::2, ::2], append=True, subfiletype=1),
            ],
        ),
        ("rgba.png", pillow(np.dstack([RGB, GREY]))),
        ("grey_alpha.png", pillow(GREY, "LA")),
        ("palette_alpha.tif", pillow(np.dstack([RGB, GREY]), "PA")),
        ("bits.png", pillow(GREY > 99)),
        ("colour.jpg", pillow(RGB)),
        ("one.npy", lambda path: np.save(path, GREY[..., None])),
        ("four.npy", lambda path: np.save(path, np.dstack([RGB, GREY]))),
        ("true.npy", lambda path: np.save(path, GREY > 99)),
    ],
)
def test_a_model_meets_the_same_pixels_in_training_and_in_a_section(tmp_path, name, write):
    """`segment` takes whatever `prepare` takes, and sees it as Pillow shows it, if Pillow can read it."""
    write(tmp_path / name)
    section, trained_on = whole(tmp_path / name), folder.read_image(tmp_path / name)
    if trained_on.ndim == 2 and section.ndim == 3:  # its colours are greys
        section = section[..., 0]
    assert np.array_equal(section, trained_on) and len(np.unique(section)) > 1
    if name not in ("planes.tif", "one.npy", "four.npy", "true.npy"):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(section, np.asarray(image.convert("L" if section.ndim == 2 else "RGB")))


@pytest.mark.parametrize(
    "write", [tiff(np.stack([GREY] * 3), photometric="minisblack"), tiff(np.stack([GREY] * 3), imagej=True)]
)
def test_a_stack_of_images_is_not_taken_for_its_first(tmp_path, write):
    write(tmp_path / "a.tif")
    for read in (whole, folder.read_image):
        with pytest.raises(
            InputError, match=r"a.tif has (3 pages|the shape \(3, 37, 53\)); a file must hold one image"
        ):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32", "float64", ">f4"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_other_numbers_become_grey_by_percentiles(tmp_path, kind, suffix):
    # 0 .. 1000, each once: the 1st percentile is 10, the 99th 990
    values = np.arange(1001).reshape(7, 143)
    path = save(tmp_path / f"a{suffix}", values.astype(kind))
    expected = ((values - 10) * 255 / 980).round().clip(0, 255)
    assert np.array_equal(whole(path), expected)
    with open_picture(path) as picture:
        assert picture.scale == "values 10 to 990 (1st to 99th percentile) as grey 0 to 255"


def test_16_bit_pngs_are_not_clipped_but_scaled(tmp_path):
    values = (np.arange(1001).reshape(7, 143) * 60).astype(np.uint16)
    assert np.array_equal(
        whole(save(tmp_path / "a.png", values)), ((values - 600.0) * 255 / 58800).round().clip(0, 255)
    )


def test_what_is_not_a_number_is_black_and_does_not_count(tmp_path):
    values = np.arange(1001, dtype=np.float32).reshape(7, 143)
    holes = values.copy()
    holes[3] = np.nan
    image = whole(save(tmp_path / "a.npy", np.vstack([values, holes[3:4], np.full((1, 143), np.inf, np.float32)])))
    assert (image[7] == 0).all() and (image[8] == 255).all() and np.array_equal(image[:7], whole_of(values, tmp_path))
    with pytest.raises(InputError, match="no finite value"):
        whole(save(tmp_path / "b.npy", holes[3:4]))


def whole_of(values, folder):
    return whole(save(folder / "values.npy", values))


def test_a_constant_is_black_and_a_few_others_in_it_are_not(tmp_path):
    values = np.full((40, 50), 7.5)
    assert not whole(save(tmp_path / "a.npy", values)).any()
    values[3, 4] = 9
    assert whole(save(tmp_path / "a.npy", values))[3, 4] == 255
    assert np.array_equal(whole(save(tmp_path / "b.npy", values > 8)), (values > 8) * np.uint8(255))


def test_percentiles_of_a_huge_picture_are_of_a_part(tmp_path, monkeypatch):
    values = RNG.normal(size=(300, 400))
    path = save(tmp_path / "a.npy", values)
    exact = whole(path).astype(int)
    monkeypatch.setattr(reading, "PIXELS_LOOKED_AT", 10_000)
    assert 0 < np.abs(whole(path) - exact).max() < 8


def test_pillows_limit_is_lifted_for_the_picture_and_stays_for_others(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert np.array_equal(whole(path), GREY) and Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("none.png", None, "there is no such file"),
        ("a.png", b"no picture", "is not a PNG, JPG or TIFF, whatever its name says"),
        ("a.tif", b"no picture", "cannot be decoded"),
        ("a.npy", b"no array", "cannot be decoded"),
        ("a.sgy", b"no volume", "cannot be read as a SEG-Y volume"),
        ("a.npy", np.zeros((3, 4, 5)), r"\(H, W\) grey or \(H, W, 3\) RGB, but this is \(3, 4, 5\)"),
        ("a.npy", np.zeros((0, 4)), r"this is \(0, 4\)"),
        ("a.npy", np.zeros((3, 4), complex), "real numbers, but this is complex128"),
        ("a.npy", np.array([[None]]), "cannot be decoded"),
        ("a.npy", own.header("{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 9)}"), "cannot be decoded"),
        ("a.npy", own.header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 999)}"), "cannot be decoded"),
        ("a.npy", own.header("(" * 9000), "cannot be decoded"),
        ("a.npy", own.npy(GREY)[:-1], "cannot be decoded"),
        ("a.tif", own.tiff(GREY)[:8], "has 0 pages"),
        ("a.tif", own.tiff(GREY)[:-50], "cannot be decoded"),
        ("a.png", builders.png(GREY)[:-100], "cannot be decoded"),
        ("a.jpg", builders.png(GREY)[:30], "is not a PNG, JPG or TIFF"),
        ("a.sgy", b"C" * 3599, "cannot be read as a SEG-Y volume"),  # shorter than the headers are
        ("a.sgy", bytes(3600), "cannot be read as a SEG-Y volume"),  # headers, and no trace
        ("a.sgy", bytes(20_000), "cannot be read as a SEG-Y volume"),
        ("a.segy", own.npy(GREY), "cannot be read as a SEG-Y volume"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=says) as caught:
        whole(path)
    assert path.stem in str(caught.value)


def test_a_picture_has_no_lines(tmp_path):
    with pytest.raises(InputError, match="--inline and --crossline are only for SEG-Y volumes"):
        whole(save(tmp_path / "a.png", GREY), inline=3)


def test_a_photograph_is_upright_as_other_programs_show_it(tmp_path):
    """Turned by 180 degrees it would still have the mask's size, so nothing else would notice."""
    image = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) // 12
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
        upright = whole(tmp_path / "a.png")
        assert upright.shape == ((40, 60) if orientation < 5 else (60, 40))
        assert np.array_equal(upright, image) == (orientation == 1)
        for kind in (np.uint8, np.uint16, np.float64):
            tag = (274, 3, 1, orientation, True)
            tifffile.imwrite(tmp_path / "a.tif", image.astype(kind), extratags=[tag])
            assert np.array_equal(reading.pixels(tmp_path / "a.tif"), upright), (orientation, kind)


def test_exif_that_is_none_costs_no_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert np.array_equal(whole(tmp_path / "a.png"), image)


def test_a_phones_jpg_of_two_pictures_is_the_first(tmp_path):
    first, second = (Image.fromarray(np.full((32, 32, 3), grey, np.uint8)) for grey in (200, 20))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert abs(int(whole(tmp_path / "a.jpg").mean()) - 200) < 3


def test_of_a_tiff_with_its_thumbnail_first_the_whole_is_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    for compression in (None, "zlib"):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(image[::5, ::5], subfiletype=1, compression=compression)
            file.write(image, compression=compression)
        assert np.array_equal(whole(tmp_path / "a.tif"), image), compression


def test_the_page_that_says_where_a_tiff_is_transparent_is_no_second_image(tmp_path):
    """GDAL writes such masks into cloud-optimised GeoTIFFs."""
    image = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image)
        file.write(np.ones((50, 60), bool), subfiletype=4)
    assert np.array_equal(whole(tmp_path / "a.tif"), image)


def test_gdals_number_for_nothing_measured_is_no_amplitude(tmp_path):
    section = np.random.default_rng(0).normal(size=(100, 80)).astype(np.float32)
    expected = section.copy()
    section[:10], expected[:10] = -9999, np.nan
    for odd in ("-1.#IND", "nan", "-1.797e308", "", "inf"):  # as some programs write it: it says nothing
        tifffile.imwrite(tmp_path / "a.tif", section, extratags=[(42113, "s", 0, odd, True)])
        assert np.array_equal(reading.pixels(tmp_path / "a.tif"), section), odd
    mask = (section > 1).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", mask, extratags=[(42113, "s", 0, "0", True)])
    assert np.array_equal(reading.pixels(tmp_path / "a.tif", labels=True), mask), "rock, and not unlabelled"
    tifffile.imwrite(tmp_path / "a.tif", section, extratags=[(42113, "s", 0, "-9999", True)])
    tifffile.imwrite(tmp_path / "b.tif", expected)
    assert (
        np.array_equal(whole(tmp_path / "a.tif"), whole(tmp_path / "b.tif"))
        and not whole(tmp_path / "a.tif")[:10].any()
    )


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32"])
def test_gdals_number_for_nothing_measured_leaves_whole_numbers_their_contrast(tmp_path, kind):
    section = np.random.default_rng(0).integers(0, 250, (100, 80)).astype(kind)
    nothing = np.iinfo(kind).max if kind == "uint16" else np.iinfo(kind).min
    section[:10] = nothing
    expected = np.where(section == nothing, np.nan, section)
    tifffile.imwrite(tmp_path / "a.tif", section, extratags=[(42113, "s", 0, str(nothing), True)])
    np.testing.assert_array_equal(reading.pixels(tmp_path / "a.tif"), expected)
    assert np.unique(whole(tmp_path / "a.tif")).size > 200
    for odd in ("-99999999999", "0.5"):  # no pixel can have it
        tifffile.imwrite(tmp_path / "a.tif", section, extratags=[(42113, "s", 0, odd, True)])
        np.testing.assert_array_equal(reading.pixels(tmp_path / "a.tif"), section)


def test_bytes_stay_as_they_are_whatever_gdal_calls_nothing(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, "s", 0, "0", True)])
    assert np.array_equal(whole(tmp_path / "a.tif"), image)


# ---- SEG-Y


@pytest.fixture
def volume(tmp_path):
    """4 inlines (1 to 4), 5 crosslines (1 to 5), 60 samples: amplitude = inline * 1000 + crossline * 100 + sample."""
    segyio = pytest.importorskip("segyio")
    inlines, crosslines, samples = np.meshgrid(range(1, 5), range(1, 6), range(60), indexing="ij")
    values = ((inlines * 1000 + crosslines * 100 + samples) * (-1) ** samples).astype(np.float32)
    segyio.tools.from_array3D(tmp_path / "cube.sgy", values)
    return tmp_path / "cube.sgy", values


@pytest.mark.parametrize("line", [{"inline": 3}, {"crossline": 5}])
def test_a_line_has_traces_across_samples_down_and_keeps_its_zero(volume, line):
    path, values = volume
    section = (values[2] if "inline" in line else values[:, 4]).T
    clip = np.percentile(np.abs(section), 99)
    assert section.shape == ((60, 5) if "inline" in line else (60, 4))
    image = whole(path, **line)
    assert np.array_equal(image, ((section + clip) * 255 / (2 * clip)).round().clip(0, 255))
    assert (image[::2] > 128).all() and (image[1::2] < 127).all()
    with open_picture(path, **line) as picture:
        [(kind, number)] = line.items()
        assert picture.name == f"cube_{kind}_{number}" and "99th percentile" in picture.scale


def test_a_line_of_few_live_traces_keeps_its_zero_grey(tmp_path):
    segyio = pytest.importorskip("segyio")
    values = np.zeros((2, 300, 40), np.float32)
    values[0, 7, :20], values[0, 7, 20:] = 2, -2
    segyio.tools.from_array3D(tmp_path / "cube.sgy", values)
    image = whole(tmp_path / "cube.sgy", inline=1)
    assert (image[:20, 7] == 255).all() and (image[20:, 7] == 0).all() and (np.delete(image, 7, axis=1) == 128).all()
    assert (whole(tmp_path / "cube.sgy", inline=2) == 128).all()


def test_gathers_are_not_taken_for_their_first_offset(tmp_path):
    segyio = pytest.importorskip("segyio")
    segyio.tools.from_array4D(tmp_path / "cube.sgy", np.ones((3, 4, 2, 20), np.float32))
    with pytest.raises(InputError, match="is not stacked: it has 2 offsets; stack it first"):
        whole(tmp_path / "cube.sgy", inline=1)


def test_the_range_of_lines_is_said(volume):
    for line, says in [
        ({}, "choose one line with --inline 1 to 4 or --crossline 1 to 5"),
        ({"inline": 9}, "no inline 9; choose from --inline 1 to 4"),
        ({"crossline": 0}, "no crossline 0; choose from --crossline 1 to 5"),
    ]:
        with pytest.raises(InputError, match=says):
            whole(volume[0], **line)


def test_without_segyio_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a.segy").write_bytes(b"")
    real = builtins.__import__

    def without(name, *rest):
        if name == "segyio":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="segyio.*is not installed.*pip install segyio"):
        whole(tmp_path / "a.segy", inline=1)
