"""Augmentation: every change alters pixels, covers its whole range, and is drawn for each sample."""

import dataclasses

import numpy as np
import pytest
import torch
from recede.configs.augmentation import AugmentationConfig
from recede.configs.components.policies import DiffusionConfig
from recede.configs.datasets import InspectConfig
from recede.configs.training import TrainConfig
from recede.datasets.augmentation import LUMA, Augmentation, crop, random_crop, recolour, rotate
from recede.datasets.store import DemonstrationStore
from recede.evaluation.reports.demonstrations import draw_augmented
from recede.specification import Specification, Stream

SCENE, WRIST = Stream("scene", (12, 16, 3), "uint8"), Stream("wrist", (10, 8, 1), "uint8")
PICTURES = {"rotation": 20.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
EVERYTHING = PICTURES | {"words": 0.1}


def augmentation_of(crop=None, **changes):
    return AugmentationConfig(**changes).build(crop)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape, batch=8, seed=0):
    """Images (B, 2, H, W, C); both images of a sample are equal."""
    return torch.randint(0, 256, (batch, 1, *shape), generator=generator(seed), dtype=torch.uint8).repeat(1, 2, 1, 1, 1)


def images_are_equal(images):
    return torch.equal(images[:, 0], images[:, 1])


@pytest.mark.parametrize("change", [{name: most} for name, most in PICTURES.items()] + [EVERYTHING, {"crop": (9, 9)}])
def test_every_augmentation_changes_pixels_differently_for_each_sample(change):
    same = pictures(12, 16, 3, batch=1).expand(6, -1, -1, -1, -1)
    augmented = augmentation_of(**change)({"scene": same}, generator())["scene"]
    assert augmented.dtype == torch.uint8
    assert augmented.shape == (6, 2, *change.get("crop", (12, 16)), 3)
    assert images_are_equal(augmented)
    if "crop" not in change:
        moved = (augmented.int() - same.int()).abs().float()
        assert moved.mean() > 2
        assert (moved.flatten(1).mean(dim=1) > 0.3).all()
    kinds = {tuple(sample.flatten().tolist()) for sample in augmented}
    assert len(kinds) >= 5


def test_the_default_augmentation_changes_nothing():
    state = torch.rand(8, 2, 3)
    observation = {"state": state, "scene": pictures(12, 16, 3)}
    before = torch.get_rng_state()
    drawn = generator()
    augmented = augmentation_of()(observation, drawn)
    assert all(augmented[name] is x for name, x in observation.items())
    assert torch.equal(drawn.get_state(), generator().get_state())
    copy = {name: x.clone() for name, x in observation.items()}
    augmented = augmentation_of(**EVERYTHING, crop=(9, 9))(observation, drawn)
    assert augmented["state"] is state
    assert all(torch.equal(x, copy[name]) for name, x in observation.items())  # the batch itself is left as it was
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_determines_the_augmentation():
    observation = {"scene": pictures(12, 16, 3), "wrist": pictures(10, 8, 1, seed=1)}
    augmentation = augmentation_of(**EVERYTHING, crop=(7, 6))
    first, again, other = (augmentation(observation, generator(seed)) for seed in (3, 3, 4))
    for name in observation:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_cameras_of_different_size_are_drawn_independently():
    numbers = torch.arange(200).view(10, 20, 1).to(torch.uint8)
    large = numbers.expand(64, 2, 10, 20, 1)
    observation = {"scene": large, "other": large, "wrist": large[:, :, :8, :9]}
    augmented = augmentation_of(crop=(6, 7))(observation, generator())
    assert {name: tuple(x.shape) for name, x in augmented.items()} == dict.fromkeys(observation, (64, 2, 6, 7, 1))
    corners = {name: x[:, 0, 0, 0, 0] for name, x in augmented.items()}
    assert not torch.equal(corners["scene"], corners["other"])
    assert corners["wrist"].unique().tolist() == sorted(20 * top + left for top in range(3) for left in range(3))


def test_a_sentence_gets_noise_of_its_own_that_is_the_same_in_all_steps():
    words = torch.rand(500, 1, 12, generator=generator()).expand(-1, 3, -1)
    observation = {"words": words, "state": torch.rand(500, 3, 2)}
    augmented = augmentation_of(words=0.3)(observation, generator())
    assert augmented["state"] is observation["state"]
    noise = augmented["words"] - words
    torch.testing.assert_close(noise, noise[:, :1].expand_as(noise))
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    some = {name: x[100:300] for name, x in observation.items()}
    part = augmentation_of(words=0.3)(some, generator(), rows=slice(100, 300), size=500)
    assert torch.equal(part["words"], augmented["words"][100:300])


# --- crops


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 2), (5, 6), (3, 6), (5, 1)])
def test_a_crop_is_a_slice(channels, size):
    images = torch.randint(0, 256, (30, 3, 5, 6, channels), generator=generator(), dtype=torch.uint8)
    places = [(top, left) for top in range(6 - size[0]) for left in range(7 - size[1])]
    places = [*(places * 30)[:29], places[-1]]  # the very last pixel is within reach
    top, left = (torch.tensor(position) for position in zip(*places, strict=True))
    crops = crop(images, size, top, left)
    for index, (row, column) in enumerate(places):
        assert torch.equal(crops[index], images[index, :, row : row + size[0], column : column + size[1]])
    strided = images.movedim(-1, 2).contiguous().movedim(2, -1)  # the same numbers, in another order in memory
    assert torch.equal(crop(strided, size, top, left), crops)


def test_every_offset_is_reached_and_equally_often():
    images = torch.arange(30).view(5, 6, 1).to(torch.uint8).expand(6000, 2, 5, 6, 1)
    crops = random_crop(images, (3, 4), generator())
    assert images_are_equal(crops)
    corners, counts = crops[:, 0, 0, 0, 0].unique(return_counts=True)
    assert corners.tolist() == [6 * top + left for top in range(3) for left in range(3)]
    expected = 6000 / 9
    assert (counts - expected).abs().max() < 5 * expected**0.5
    assert torch.equal(crops[:, 0, 2, 3, 0] - crops[:, 0, 0, 0, 0], torch.full((6000,), 15, dtype=torch.uint8))


def test_images_of_the_crop_size_are_unchanged_and_smaller_ones_refused():
    images = pictures(5, 6, 3)
    assert random_crop(images, (5, 6), generator()) is images
    assert random_crop(images, (5, 4), generator()).shape == (8, 2, 5, 4, 3)
    with pytest.raises(ValueError, match=r"got \(6, 6\) for images of \(5, 6\)"):
        random_crop(images, (6, 6), generator())


# --- rotation


def test_quarter_turns_are_exact():
    images = pictures(7, 7, 3, batch=4)
    rotated = rotate(images, torch.tensor([0.0, 1, 2, 3]) * torch.pi / 2)
    for turns in range(4):
        assert torch.equal(rotated[turns], images[turns].rot90(turns, dims=(1, 2)))  # counter-clockwise


def test_an_image_that_is_not_square_is_rotated_without_distortion():
    rows, columns = torch.meshgrid(torch.arange(21) - 10, torch.arange(41) - 20, indexing="ij")
    disc = ((rows**2 + columns**2 < 64) * 255).to(torch.uint8)
    bar = ((rows.abs() < 2) & (columns.abs() < 9)).to(torch.uint8) * 255
    images = torch.stack([disc, bar])[:, None, :, :, None]
    rotated = rotate(images, torch.full((2,), torch.pi / 2))[:, 0, :, :, 0]
    assert (rotated[0].int() - disc.int()).abs().float().mean() < 1
    assert rotated[1, 10 - 8 : 10 + 9, 20].min() == 255  # the bar stands upright, as long as it lay
    assert rotated[1, :, 25].max() == 0


def test_pixels_beyond_the_edge_take_the_nearest_value():
    images = torch.full((1, 1, 16, 16, 1), 77, dtype=torch.uint8)
    assert (rotate(images, torch.tensor([0.7])) == 77).all()


def test_angles_reach_both_ways_and_not_too_far():
    images = torch.zeros(400, 1, 65, 65, 1, dtype=torch.uint8)
    images[:, :, 32, 62] = 255  # right of the centre, at a radius of 30
    rotated = augmentation_of(rotation=30)({"scene": images}, generator())["scene"][:, 0, :, :, 0].float()
    rows, columns = torch.meshgrid(32 - torch.arange(65.0), torch.arange(65.0) - 32, indexing="ij")
    angle = torch.atan2((rotated * rows).sum(dim=(1, 2)), (rotated * columns).sum(dim=(1, 2))).rad2deg()
    assert angle.abs().max() < 30.5
    assert angle.max() > 28
    assert angle.min() < -28
    assert angle.mean().abs() < 3


# --- colours


def one_after_the_other(images, brightness, contrast, saturation):
    """The definition in three steps, for images (B, To, H, W, C) and factors (B,)."""
    x = images.double() * brightness[:, None, None, None, None]
    shares = torch.tensor(LUMA if x.shape[-1] == 3 else [1 / x.shape[-1]] * x.shape[-1], dtype=torch.float64)
    mean = (x @ shares).mean(dim=(1, 2, 3))[:, None, None, None, None]
    x = mean + contrast[:, None, None, None, None] * (x - mean)
    if x.shape[-1] == 3:
        grey = (x @ shares)[..., None]
        x = grey + saturation[:, None, None, None, None] * (x - grey)
    return x.round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_change_as_defined(channels):
    images = torch.randint(0, 256, (8, 2, 5, 6, channels), generator=generator(), dtype=torch.uint8)
    factors = (0.4 + 1.2 * torch.rand(3, 8, generator=generator(1))).double()
    recoloured, expected = recolour(images, *factors.float()), one_after_the_other(images, *factors)
    assert (recoloured.int() - expected.int()).abs().max() <= 1  # a rounding of float32
    assert (recoloured != expected).float().mean() < 0.01
    assert torch.equal(recolour(images, *torch.ones(3, 8)), images)


def test_the_meaning_of_each_factor():
    images, one = pictures(6, 6, 3, batch=1) // 2, torch.ones(1)
    assert torch.equal(recolour(images, 2 * one, one, one), images * 2)
    grey = recolour(images, one, one, 0 * one)
    assert torch.equal(grey[..., 0], grey[..., 2])
    assert recolour(images, one, 0 * one, one).unique().numel() == 1
    assert recolour(images, 0 * one, one, one).max() == 0


@pytest.mark.parametrize(("name", "index"), [("brightness", 0), ("contrast", 1), ("saturation", 2)])
def test_factors_are_drawn_up_to_their_bounds(monkeypatch, name, index):
    drawn = []
    monkeypatch.setattr(
        "recede.datasets.augmentation.recolour", lambda images, *factors: drawn.append(factors) or images
    )
    augmentation_of(**{name: 0.3})({"scene": pictures(4, 4, 3, batch=500)}, generator())
    (factors,) = drawn
    assert (factors[index] - 0.7).min().abs() < 0.01
    assert (factors[index] - 1.3).max().abs() < 0.01
    assert all((factor == 1).all() for place, factor in enumerate(factors) if place != index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": -1}, "rotation.*180.*-1"),
        ({"brightness": 1.5}, r"brightness.*1\.5"),
        ({"saturation": float("nan")}, "saturation.*nan"),
        ({"words": -0.1}, r"words.*-0\.1"),
        ({"words": float("nan")}, "words.*nan"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        augmentation_of(**options)
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**options)


def test_noise_on_sentences_needs_sentences():
    options = {
        "dataset": "data",
        "out": "run",
        "policy": DiffusionConfig(),
        "augmentation": AugmentationConfig(words=0.2),
    }
    assert TrainConfig(**options, text_encoder="encoder").augmentation.words == 0.2
    with pytest.raises(ValueError, match=r"augmentation\.words=0\.2.*give text_encoder="):
        TrainConfig(**options)


def test_the_configuration_has_every_field_except_the_crop():
    config = AugmentationConfig(**EVERYTHING)
    assert config.build((4, 5)) == Augmentation(crop=(4, 5), **EVERYTHING)
    assert {field.name for field in dataclasses.fields(Augmentation)} == {"crop", *EVERYTHING}


# --- to look at


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    specification = Specification((SCENE, WRIST, Stream("state", (2,))), Stream("action", (2,)), control_dt=0.1)
    store = DemonstrationStore.create(tmp_path_factory.mktemp("recorded") / "demos.zarr", specification)
    rng = np.random.default_rng(0)
    for seed in range(2):
        images = {s.name: rng.integers(0, 256, (9, *s.shape), dtype=np.uint8) for s in (SCENE, WRIST)}
        vectors = {name: rng.normal(size=(9, 2)).astype("float32") for name in ("state", "action")}
        store.append(images | vectors, seed=seed)
    return store


@pytest.mark.slow
def test_augmented_images_are_drawn(recorded, tmp_path, recede):
    import imageio.v3

    out, augmented = tmp_path / "picture.png", tmp_path / "picture.augmented.png"
    options = ["augment=true", "crop=[8,7]", "augmentation.brightness=0.5", f"out={out}"]
    result = recede("inspect", recorded.path, *options, "seed=0")
    assert result.status == 0, result.err
    assert f"augmented: {augmented}" in result.out.splitlines()
    pictures = [imageio.v3.imread(augmented)]
    for seed in (0, 1):
        draw_augmented(recorded, augmentation_of(crop=(8, 7), brightness=0.5), tmp_path / "again.png", seed=seed)
        pictures.append(imageio.v3.imread(tmp_path / "again.png"))
    assert min(pictures[0].shape[:2]) > 300
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], imageio.v3.imread(out))


@pytest.mark.slow
def test_the_default_crop_is_seven_eighths(recorded, tmp_path, recede, monkeypatch):
    from matplotlib.axes import Axes

    monkeypatch.setattr("recede.evaluation.reports.demonstrations.draw_demonstrations", lambda *arguments: None)
    images = []
    monkeypatch.setattr(Axes, "imshow", lambda axis, image, **_: images.append(np.shape(image)))
    assert recede("inspect", recorded.path, f"out={tmp_path / 'picture.png'}", "augment=true").status == 0
    assert images[:2] == [(12, 16, 3), (8, 7, 3)]  # of images of 12 x 16 and of 10 x 8


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_images_of_any_number_of_channels_are_drawn(tmp_path, channels):
    specification = Specification((Stream("camera", (12, 16, channels), "uint8"),), Stream("action", (1,)), 0.1)
    store = DemonstrationStore.create(tmp_path / "demos", specification)
    store.append({"camera": np.zeros((3, 12, 16, channels), "u1"), "action": np.zeros((3, 1), "f4")})
    draw_augmented(store, augmentation_of(crop=(8, 7)), tmp_path / "grid.png", samples=1)
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_a_row_shows_the_original_and_augmented_images(recorded, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    images = []
    monkeypatch.setattr(Axes, "imshow", lambda axis, image, **_: images.append(np.asarray(image)))
    draw_augmented(recorded, augmentation_of(crop=(8, 7)), tmp_path / "grid.png", samples=3)
    assert len(images) == 2 * 3 * 6
    sizes = [(12, 16, 3)] + [(8, 7, 3)] * 5
    assert [image.shape for image in images[:18]] == sizes * 3
    assert [image.shape for image in images[18:]] == [(10, 8, 3), *sizes[1:]] * 3
    np.testing.assert_array_equal(images[6], recorded.read("scene", 8, 9)[0])
    wholes = np.lib.stride_tricks.sliding_window_view(images[6], (8, 7, 3)).reshape(-1, 8, 7, 3)
    assert all((wholes == image).all(axis=(1, 2, 3)).any() for image in images[7:12])


def test_impossible_drawings_are_refused(recorded, tmp_path, recede, reaches, monkeypatch):
    monkeypatch.setattr("recede.evaluation.reports.demonstrations.draw_demonstrations", lambda *arguments: None)
    out = f"out={tmp_path / 'picture.png'}"
    for more in (["crop=[8,7]"], ["augmentation.rotation=5"]):
        result = recede("inspect", recorded.path, out, *more)
        assert result.status == 2
        assert "augment=true" in result.line
    result = recede("inspect", recorded.path, out, "augment=true", "crop=[11,7]")
    assert "got (11, 7) for images of (10, 8) pixels" in result.last
    result = recede("inspect", reaches, out, "augment=true", "crop=[8,7]")
    assert "augment=true" in result.last
    with pytest.raises(ValueError, match=r"crop .*got \[8\]"):
        InspectConfig(dataset="d", augment=True, crop=[8])
