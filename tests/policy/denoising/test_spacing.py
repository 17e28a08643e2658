"""The noise levels that a sampler visits, and their effect on the law of its samples."""

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
from gaussians import law
from hypothesis import given, settings
from hypothesis import strategies as st
from recede.configs.components.denoising import (
    DDIMConfig,
    DDPMConfig,
    DPMSolver2MConfig,
    EulerMaruyamaConfig,
    HeunConfig,
    KarrasSamplerConfig,
    LangevinConfig,
)
from recede.policy.denoising import schedule
from recede.policy.denoising.levels import MOST_NOISE, SPACINGS, NoiseLevel, spaced

COSINE, FLOW = schedule.cosine(100), schedule.rectified_flow(100)


@st.composite
def tables(draw, largest=60):
    """Tables of 2 levels or more, of which the last may be pure noise."""
    gaps = draw(st.lists(st.floats(1e-3, 5), min_size=1, max_size=largest))
    angles = np.arctan(np.exp(np.cumsum(gaps) - draw(st.floats(1, 8))))
    levels = [NoiseLevel(time, math.cos(angle), math.sin(angle)) for time, angle in enumerate(angles)]
    if draw(st.booleans()):
        levels[-1] = NoiseLevel(len(levels) - 1, 0.0, 1.0)
    return (NoiseLevel(-1, 1.0, 0.0), *levels)


@settings(deadline=None, max_examples=500)
@given(table=tables(), share=st.floats(0, 1), spacing=st.sampled_from(sorted(SPACINGS)))
def test_any_number_of_steps_descends_from_noise_to_data(table, share, spacing):
    last = len(table) - 1
    num_steps = 1 + round(share * (last - 1))
    if spacing == "leading" and num_steps == 1 < last:
        return
    levels = spaced(table, num_steps, spacing)
    assert len(levels) == num_steps + 1
    assert set(levels) <= set(table)
    assert levels[-1] == table[0]
    assert all(then.time < now.time for now, then in pairwise(levels))
    if spacing != "leading":
        assert levels[0] == table[-1]
    if spacing != "trailing" and num_steps > 1 and table[1].sigma < MOST_NOISE * table[1].alpha:
        assert levels[-2] == table[1]
    if num_steps == last:
        assert levels == table[::-1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("noise_schedule", [COSINE, FLOW], ids=["cosine", "flow"])
def test_all_numbers_of_steps_of_the_usual_schedules_descend(noise_schedule, spacing):
    for num_steps in range(2, 101):
        times = [level.time for level in spaced(noise_schedule.levels, num_steps, spacing)]
        assert times == sorted(set(times), reverse=True)
        assert len(times) == num_steps + 1


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_spacings_in_time_are_those_of_diffusers(spacing):
    scheduler = diffusers.DDIMScheduler(100, timestep_spacing=spacing)
    equal = set()
    for num_steps in range(1, 101):
        scheduler.set_timesteps(num_steps)
        times = scheduler.timesteps.tolist()
        if len(times) != num_steps or (num_steps == 1 and times[0] == 0):
            continue  # a time too many, or one step from where hardly any noise is left
        ours = [level.time for level in spaced(COSINE.levels, num_steps, spacing)[:-1]]
        # Their floats come out on either side of the exact halves, which are rounded to the nearest time.
        assert max(abs(time - other) for time, other in zip(ours, times, strict=True)) <= 1
        equal |= {num_steps} if ours == times else set()
    assert len(equal) >= 85
    assert {5, 10, 50, 100} <= equal


def test_one_step_goes_from_the_last_level_to_data():
    for spacing in SPACINGS.keys() - {"leading"}:
        assert spaced(COSINE.levels, 1, spacing) == (COSINE.levels[-1], COSINE.levels[0])
    with pytest.raises(ValueError, match="got 1: choose spacing=trailing"):
        spaced(COSINE.levels, 1, "leading")
    assert spaced(COSINE.levels[:2], 1, "leading") == COSINE.levels[1::-1]  # there is no other


@pytest.mark.parametrize("num_steps", [2, 5, 10, 30])
def test_log_snr_and_karras_are_even_as_published(num_steps):
    table = schedule.rectified_flow(20_000).levels
    least = table[1].sigma / table[1].alpha
    even = np.arange(num_steps) / max(num_steps - 1, 1)
    published = {
        "log_snr": np.exp(math.log(MOST_NOISE) + even * math.log(least / MOST_NOISE)),
        "karras": (MOST_NOISE ** (1 / 7) + even * (least ** (1 / 7) - MOST_NOISE ** (1 / 7))) ** 7,
    }
    for spacing, ratios in published.items():
        levels = spaced(table, num_steps, spacing)
        assert levels[0] == table[-1]
        chosen = np.array([level.sigma / level.alpha for level in levels[1:-1]])
        np.testing.assert_allclose(chosen, ratios[1:], rtol=5e-3, atol=5e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [0, -1, 101])
def test_an_impossible_number_of_steps_is_refused(spacing, num_steps):
    with pytest.raises(ValueError, match=f"between 1 and .*100 .*got {num_steps}"):
        spaced(COSINE.levels, num_steps, spacing)


def test_an_unknown_spacing_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="got 'trailin': did you mean 'trailing'"):
        spaced(COSINE.levels, 10, "trailin")
    with pytest.raises(
        ValueError, match="spacing must be one of trailing, leading, linspace, karras, log_snr, got 'kar"
    ):
        DDIMConfig(spacing="karas")


# The standard deviation of samples over that of the data, for Gaussians of these standard deviations whose denoisers
# are exact: on cosine(100), and on the rectified flow of 100 times.
STDS = 0.02, 0.05, 0.2, 0.5
SAMPLERS = {
    "ddim": DDIMConfig,
    "ddpm": DDPMConfig,
    "dpm_solver_2m": DPMSolver2MConfig,
    "heun": HeunConfig,
    "karras": KarrasSamplerConfig,
    "langevin": LangevinConfig,
    "euler_maruyama": EulerMaruyamaConfig,
}
# fmt: off
BY_DEFAULT = {  # 10, 100, 8, 5, 10, 20 and 50 steps
    "ddim": ([0.117, 0.280, 0.703, 0.854], [0.176, 0.398, 0.771, 0.862]),
    "ddpm": ([0.573, 0.782, 0.927, 0.965], [0.733, 0.848, 0.942, 0.967]),
    "dpm_solver_2m": ([0.595, 0.836, 0.993, 1.027], [0.823, 0.951, 1.013, 1.027]),
    "heun": ([0.059, 0.148, 0.523, 0.847], [0.080, 0.198, 0.655, 0.917]),
    "karras": ([0.739, 1.082, 1.073, 1.017], [1.144, 1.196, 1.093, 1.022]),
    "langevin": ([0.626, 0.872, 0.960, 0.965], [0.851, 0.942, 0.957, 0.956]),
    "euler_maruyama": ([0.638, 0.928, 0.982, 0.988], [1.037, 1.023, 0.996, 0.992]),
}
IN_10_STEPS = {
    ("ddim", "trailing"): ([0.117, 0.280, 0.703, 0.854], [0.176, 0.398, 0.771, 0.862]),
    ("ddim", "leading"): ([0.530, 0.595, 0.757, 0.871], [0.574, 0.580, 0.857, 0.949]),
    ("ddim", "linspace"): ([0.522, 0.577, 0.729, 0.849], [0.512, 0.502, 0.760, 0.850]),
    ("ddim", "karras"): ([0.562, 0.720, 0.784, 0.814], [0.675, 0.736, 0.779, 0.799]),
    ("ddim", "log_snr"): ([0.577, 0.768, 0.826, 0.830], [0.754, 0.793, 0.805, 0.808]),
    ("ddpm", "trailing"): ([0.117, 0.276, 0.646, 0.777], [0.175, 0.387, 0.684, 0.773]),
    ("ddpm", "leading"): ([0.494, 0.473, 0.645, 0.777], [0.431, 0.407, 0.681, 0.773]),
    ("ddpm", "linspace"): ([0.493, 0.463, 0.625, 0.762], [0.426, 0.383, 0.663, 0.757]),
    ("ddpm", "karras"): ([0.524, 0.618, 0.659, 0.696], [0.559, 0.613, 0.653, 0.676]),
    ("ddpm", "log_snr"): ([0.541, 0.681, 0.720, 0.723], [0.671, 0.681, 0.688, 0.693]),
    ("dpm_solver_2m", "trailing"): ([0.117, 0.282, 0.750, 0.951], [0.177, 0.405, 0.861, 0.994]),
    ("dpm_solver_2m", "leading"): ([0.557, 0.728, 1.111, 1.141], [0.686, 0.883, 1.344, 1.268]),
    ("dpm_solver_2m", "linspace"): ([0.548, 0.704, 1.092, 1.144], [0.608, 0.768, 1.229, 1.176]),
    ("dpm_solver_2m", "karras"): ([0.587, 0.829, 1.022, 1.066], [0.790, 0.962, 1.063, 1.078]),
    ("dpm_solver_2m", "log_snr"): ([0.603, 0.869, 1.000, 1.018], [0.848, 0.967, 1.026, 1.034]),
    ("heun", "trailing"): ([0.117, 0.285, 0.778, 0.951], [0.178, 0.420, 0.898, 0.982]),
    ("heun", "leading"): ([0.985, 1.353, 1.031, 1.006], [2.197, 1.500, 1.124, 1.101]),
    ("heun", "linspace"): ([1.017, 1.404, 1.027, 0.999], [2.152, 1.435, 1.027, 1.004]),
    ("heun", "karras"): ([0.699, 1.021, 1.048, 1.014], [1.109, 1.129, 1.065, 1.018]),
    ("heun", "log_snr"): ([0.659, 0.951, 1.034, 1.016], [0.993, 1.076, 1.055, 1.020]),
}
ERROR_OF_THE_MEAN_IF_LEADING = {  # in 10 steps; the mean of the data is 0.3
    "ddim": ([-0.0004, -0.0012, -0.0064, -0.0183], [-0.0003, -0.0008, -0.0046, -0.0128]),
    "ddpm": ([0.0000, 0.0000, -0.0002, -0.0015], [0.0000, 0.0000, -0.0001, -0.0007]),
    "dpm_solver_2m": ([-0.0005, -0.0015, -0.0093, -0.0239], [-0.0004, -0.0012, -0.0073, -0.0171]),
    "heun": ([-0.0008, -0.0028, -0.0086, -0.0211], [-0.0012, -0.0020, -0.0061, -0.0149]),
}
# fmt: on


def laws(config):
    """For both schedules, (errors of the mean, ratios of the standard deviations)."""
    for noise_schedule in (COSINE, FLOW):
        sampler = config.build(noise_schedule)
        yield tuple(zip(*(law(sampler, std) for std in STDS), strict=True))


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_the_law_of_each_sampler_by_default(name):
    for (errors, ratios), spread in zip(laws(SAMPLERS[name]()), BY_DEFAULT[name], strict=True):
        assert errors == pytest.approx([0] * 4, abs=1e-4)
        assert ratios == pytest.approx(spread, abs=6e-4)


@pytest.mark.parametrize(("name", "spacing"), IN_10_STEPS)
def test_the_law_of_each_spacing_in_10_steps(name, spacing):
    unbiased = ([0] * 4, [0] * 4)
    means = ERROR_OF_THE_MEAN_IF_LEADING[name] if spacing == "leading" else unbiased
    actual = laws(SAMPLERS[name](num_steps=10, spacing=spacing))
    for (errors, ratios), mean, spread in zip(actual, means, IN_10_STEPS[name, spacing], strict=True):
        assert errors == pytest.approx(mean, abs=1e-4)
        assert ratios == pytest.approx(spread, abs=6e-4)
