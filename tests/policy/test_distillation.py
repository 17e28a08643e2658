"""Progressive distillation on Gaussian data, whose steps have a closed form."""

from itertools import pairwise

import pytest
import torch
from recede.policy.check import check_policy
from recede.policy.denoising.energies import Energies, RateLimit
from recede.policy.denoising.levels import spaced
from recede.policy.denoising.sampling import ddim, step
from recede.policy.denoising.weighting import uniform
from recede.policy.distillation import Progressive, grid_time, implied
from recede.policy.interface import Lesson
from recede.policy.likelihood import log_likelihood
from recede.policy.objective import Denoising, levels_at
from tiny import MLP, SCHEDULE, STD, Exact, draw, policy, state, train

ROWS = 512


def make_lesson(made, teacher):
    generator = torch.Generator().manual_seed(2)
    action, noise = STD * torch.randn(ROWS, 2, 1, generator=generator), torch.randn(1, ROWS, 2, 1, generator=generator)
    return Lesson(state(ROWS), action, noise, torch.rand(1, ROWS, 1, generator=generator), teacher=teacher)


def towards(made, lesson, monkeypatch):
    """(x_t, now, then, x_0) of the rows of a lesson: the objective wants steps from x_t that go towards x_0."""
    calls = []

    def error(self, policy, x_t, conditioning, *, now, then, target):
        calls.append((x_t, now, then, target))  # the network predicts x_0
        return target[..., 0]

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "error", error)
        made.loss(lesson)
    return calls[0]


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
def test_targets_of_progressive_distillation_reproduce_the_steps_of_the_teacher(num_steps, teacher_steps, monkeypatch):
    """Two of them, or any other number."""
    teacher = policy(Exact())
    made = policy(MLP(), num_steps=num_steps, objective=Progressive(uniform, num_steps, teacher_steps))
    x_t, now, then, x_0 = towards(made, make_lesson(made, teacher), monkeypatch)
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


# --- what is learned


@pytest.mark.slow
def test_a_distilled_policy_lands_in_one_step_where_its_teacher_does():
    """One step of plain denoising ends at the mean."""
    torch.manual_seed(0)
    teacher = policy(Exact()).requires_grad_(False)
    made = train(policy(MLP(), num_steps=1, objective=Progressive(uniform, 1, 10)), teacher=teacher, num_steps=400)
    chunk, expected = (either.predict(state(), draw(made)) for either in (made, teacher))
    assert expected.std() > 0.8 * STD
    assert (chunk - expected).abs().mean() < 0.15 * STD
    plain = policy(Exact(), num_steps=1)
    assert plain.predict(state(), draw(plain)).std() < 0.1 * STD


def test_a_distilled_policy_keeps_every_promise():
    lines = check_policy(lambda: policy(MLP(), num_steps=2, objective=Progressive(uniform, 2, 4)))
    assert "is held where its weight is 1" in lines
    assert "gives finite chunks" in lines


def test_a_distilled_policy_has_no_likelihood():
    made = policy(MLP(), num_steps=1, objective=Progressive(uniform, 1, 4))
    with pytest.raises(ValueError, match="was distilled has no likelihood"):
        log_likelihood(made, state(3), torch.zeros(3, 2, 1))


def test_what_weighs_estimates_of_x_0_is_refused():
    made = policy(MLP(), num_steps=1, objective=Progressive(uniform, 1, 4))
    (draws, *shape), size = made.noise_shape, made.specification.action.size
    guidance = [Energies((RateLimit((1.0,) * size, (1.0,) * size, 0.1),), exact=False)]
    with pytest.raises(ValueError, match="guide its teacher"):
        made.predict(state(3), torch.zeros(draws, 3, *shape), guidance)
