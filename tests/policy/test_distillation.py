"""Objectives of few steps, on Gaussian data: where each step must land has a closed form."""

import dataclasses
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from policies import HORIZONS, RANGES, SPECIFICATION, network_config
from recede.configs.components.policies import MIPConfig
from recede.policy.check import check_policy
from recede.policy.denoising.levels import spaced
from recede.policy.denoising.prediction import VELOCITY
from recede.policy.denoising.sampling import ddim, step
from recede.policy.denoising.schedule import rectified_flow
from recede.policy.denoising.weighting import uniform
from recede.policy.few_steps import Progressive, Shortcut, grid_time, implied
from recede.policy.interface import Lesson
from recede.policy.normalizer import Normalizer
from recede.policy.objective import Denoising, levels_at
from tiny import MLP, SCHEDULE, STD, Exact, draw, policy, state, train

FLOW = rectified_flow(20)
ROWS = 512


class FlowMap(Exact):
    """The exact flow map: a step lands where the probability flow leads; a step of no length is the best estimate."""

    def embed(self, now, then):
        return torch.stack([*SCHEDULE(now.long()), *SCHEDULE(then.long())], dim=-1)

    def denoise(self, noisy, time, condition):
        now, then = (self.level(*half.unbind(dim=-1)) for half in time.chunk(2, dim=-1))
        mean = condition[:, None]
        best = mean + now.alpha * STD**2 / (now.alpha**2 * STD**2 + now.sigma**2) * (noisy - now.alpha * mean)
        spread = [(level.alpha**2 * STD**2 + level.sigma**2).sqrt() for level in (now, then)]
        landed = then.alpha * mean + spread[1] / spread[0] * (noisy - now.alpha * mean)
        return torch.where(now.sigma == then.sigma, best, implied(noisy, landed, now=now, then=then))

    def level(self, alpha, sigma):
        return levels_at(lambda t: (alpha, sigma), None)


def make_lesson(made, *, teacher=None, uniforms=None, rows=ROWS, seed=2):
    generator = torch.Generator().manual_seed(seed)
    action, noise = STD * torch.randn(rows, 2, 1, generator=generator), torch.randn(1, rows, 2, 1, generator=generator)
    drawn = torch.rand(1, rows, made.num_uniforms, generator=generator)
    for index, value in (uniforms or {}).items():
        drawn[..., index] = value
    return Lesson(state(rows), action, noise, drawn, teacher=teacher)


def towards(made, lesson):
    """(x_t, now, then, x_0) of the rows of a lesson: the objective wants steps from x_t that go towards x_0."""
    objective = made.objective
    spied = []

    class Spy(type(objective)):
        def landing(self, policy, x_t, conditioning, *, now, then, x_0):
            spied.append((x_t, now, then, x_0))
            return x_0[..., 0]

    values = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    made.objective = Spy(**values)
    made.loss(lesson)
    made.objective = objective
    return spied[0]


def test_the_estimate_of_a_step_follows_from_where_it_lands():
    x, x_0 = torch.randn(2, 5, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for now, then in pairwise(reversed(SCHEDULE.levels)):
        landed = step(x, x_0, now=now, then=then)
        torch.testing.assert_close(implied(x, landed, now=now, then=then), x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 10])
def test_times_of_a_grid_are_those_of_trailing_spacing(count):
    times = grid_time(SCHEDULE, torch.arange(count, -1.0, -1.0), count)
    assert times.tolist() == [level.time for level in spaced(SCHEDULE.levels, count, "trailing")]


# --- targets


@pytest.mark.parametrize(("num_steps", "teacher_steps"), [(5, 10), (2, 4), (1, 10)])
def test_targets_of_progressive_distillation_reproduce_the_steps_of_the_teacher(num_steps, teacher_steps):
    """Two of them, or any other number."""
    teacher = policy(Exact())
    made = policy(MLP(), num_steps=num_steps, objective=Progressive(uniform, num_steps, teacher_steps))
    lesson = make_lesson(made, teacher=teacher)
    x_t, now, then, x_0 = towards(made, lesson)
    landed = step(x_t, x_0, now=now, then=then)
    levels = spaced(SCHEDULE.levels, teacher_steps, "trailing")
    denoise = teacher.by_row(teacher.encode(state(ROWS)))
    assert len(now.time.unique()) == num_steps
    ratio = teacher_steps // num_steps
    for index in range(num_steps):
        path = levels[index * ratio : (index + 1) * ratio + 1]
        rows = now.time == path[0].time
        assert (then.time[rows] == path[-1].time).all()
        whole = [levels_at(SCHEDULE, torch.full((ROWS,), int(level.time))) for level in path]
        expected = ddim(denoise, x_t[None], whole, eta=0.0)
        torch.testing.assert_close(landed[rows], expected[rows], rtol=0, atol=1e-5)


def test_a_step_of_no_length_stays_where_it_is():
    """Whatever the network says: so a flow map need not learn its boundary."""
    x = draw(policy(MLP()), 4)[0]
    for level in SCHEDULE.levels[1:]:
        torch.testing.assert_close(step(x, torch.full_like(x, 7.0), now=level, then=level), x)


def test_the_exact_flow_map_lands_where_its_teacher_does():
    """A teacher of whole steps teaches those that it has learned."""
    teacher = policy(FlowMap(), num_steps=1, objective=Shortcut(uniform, 8))
    made = policy(FlowMap(), num_steps=2, objective=Progressive(uniform, 2, 8))
    made.check_teacher(teacher)
    assert made.loss(make_lesson(made, teacher=teacher)).max() < 1e-6


def test_a_shortcut_of_no_length_is_plain_denoising():
    made = policy(FlowMap(), num_steps=1, objective=Shortcut(uniform, 8))
    lesson = make_lesson(made, uniforms={3: 0.2})
    assert torch.equal(made.loss(lesson), policy(FlowMap(), objective=Denoising(uniform)).loss(lesson))


def test_a_shortcut_lands_where_two_of_half_its_length_do():
    made = policy(FlowMap(), num_steps=1, objective=Shortcut(uniform, 8))
    for power, count in enumerate([1, 2, 4]):
        lesson = make_lesson(made, uniforms={1: power / 4, 3: 0.9})
        _, now, then, _ = towards(made, lesson)
        pairs = {(first, second) for first, second in zip(now.time.tolist(), then.time.tolist(), strict=True)}
        levels = spaced(SCHEDULE.levels, count, "trailing")
        assert pairs == {(first.time, second.time) for first, second in pairwise(levels)}
        assert made.loss(lesson).max() < 1e-6  # flow maps compose
    lesson = make_lesson(made, uniforms={1: 0.8, 3: 0.9})
    x_t, now, then, x_0 = towards(made, lesson)
    denoise = policy(Exact()).by_row(made.encode(state(ROWS)))
    times = [level.time for level in spaced(SCHEDULE.levels, 16, "trailing")]
    middle = levels_at(SCHEDULE, torch.tensor([times[times.index(time) + 1] for time in now.time.tolist()]))
    path = ddim(denoise, x_t[None], (now, middle, then), eta=0.0)
    torch.testing.assert_close(step(x_t, x_0, now=now, then=then), path, rtol=0, atol=1e-5)


def test_mip_is_two_regressions_of_which_the_second_refines_the_first():
    """From an empty chunk, and from nine tenths of the chunk with noise; the second sees no noise in use."""
    torch.manual_seed(0)
    config = MIPConfig(network=network_config([16, 32]))
    made = config.build(SPECIFICATION, HORIZONS, Normalizer(SPECIFICATION, RANGES)).eval()
    lesson, other = (mip_lesson(seed) for seed in (0, 1))
    changes = [
        (made.loss(lesson) - made.loss(replace(lesson, noise=other.noise))).abs()[:, row].max() for row in (0, 1)
    ]
    assert changes[0] > 1e-3 > changes[1] == 0
    conditioning, times = made.encode(lesson.observation), (torch.ones(2).long(), torch.zeros(2).long())
    empty = torch.zeros(2, *made.noise_shape[1:])
    first = -made.network(empty, times[0], conditioning)
    second = 0.9 * first - 0.1 * made.network(0.9 * first, times[1], conditioning)
    chunk = made.predict(lesson.observation, empty[:0, None].expand(0, 2, *empty.shape[1:]))
    torch.testing.assert_close(chunk, made.space.decode(second))


def mip_lesson(seed):
    """Two rows, the first with a little noise and the second with nothing else."""
    generator = torch.Generator().manual_seed(seed)
    observation = {"state": torch.zeros(2, 2, 3), "target": torch.full((2, 2, 2), 5.0, dtype=torch.float64)}
    noise, uniform = torch.randn(1, 2, 6, 2, generator=generator), torch.tensor([[[0.2], [0.7]]])
    return Lesson(observation, torch.tensor([150.0, -2.0]).expand(2, 6, 2), noise, uniform)


# --- what is learned


OBJECTIVES = {
    "shortcut": (Shortcut(uniform, 8), {}),
    "shortcut of a flow": (Shortcut(uniform, 8), {"schedule": FLOW, "prediction": VELOCITY}),
    "progressive": (Progressive(uniform, 2, 4), {}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_single_step_keeps_the_spread_of_the_data(name):
    """That of the teacher, if there is one. One step of plain denoising ends at the mean."""
    torch.manual_seed(0)
    objective, options = OBJECTIVES[name]
    teacher = policy(Exact(), num_steps=4).requires_grad_(False) if objective.has_teacher else None
    if name == "progressive":
        objective = replace(objective, num_steps=1)
    made = train(policy(MLP(), num_steps=1, objective=objective, **options), teacher=teacher, num_steps=500)
    chunk = made.predict(state(), draw(made))
    expected = STD if teacher is None else teacher.predict(state(), draw(made)).std().item()
    assert chunk.std().item() == pytest.approx(expected, rel=0.2)
    plain = policy(Exact(), num_steps=1)
    assert plain.predict(state(), draw(plain)).std() < 0.1 * STD


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_policy_of_few_steps_keeps_every_promise(name):
    objective, options = OBJECTIVES[name]
    lines = check_policy(lambda: policy(MLP(), num_steps=2, objective=objective, **options))
    assert "is held where its weight is 1" in lines
    assert "gives finite chunks" in lines
