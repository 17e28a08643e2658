"""`check_policy` accepts a policy that keeps every promise, and names each promise that is broken."""

from dataclasses import replace
from functools import partial
from itertools import count

import cameras
import pytest
import recede
import torch
from policies import SPECIFICATION, diffusion, regression
from recede.policy.check import check_policy
from recede.policy.diffusion import DiffusionPolicy
from torch import nn

small = partial(diffusion, channels=(8,))


def changed(**members):
    """A function that makes a diffusion policy with these members replaced."""

    def make():
        policy = small()
        policy.__class__ = type("Changed", (DiffusionPolicy,), members)
        return policy

    return make


def stating(name, value):
    return changed(**{name: property(lambda self: value)})


def losing(change):
    """change: (policy, lesson, loss) -> loss."""
    return changed(loss=lambda self, lesson: change(self, lesson, DiffusionPolicy.loss(self, lesson)))


def predicting(change):
    """change: (policy, chunk, guidance) -> chunk."""

    def predict(self, observation, noise, guidance=()):
        return change(self, DiffusionPolicy.predict(self, observation, noise, guidance), guidance)

    return changed(predict=predict)


def asking(change):
    """change: (observation, noise, guidance) -> the arguments to predict from instead."""

    def predict(self, observation, noise, guidance=()):
        return DiffusionPolicy.predict(self, *change(observation, noise, guidance))

    return changed(predict=predict)


def extended(extend):
    """extend: changes a new policy."""

    def make():
        policy = small()
        extend(policy)
        return policy

    return make


def weighing(guidance):
    """Whether a prefix with weight guides."""
    return bool(guidance) and bool(guidance[0].weights.any())


def with_every_stream(observation, noise, guidance):
    return {"state": torch.zeros(len(observation["target"]), 2, 3), **observation}, noise, guidance


def with_known_streams(observation, noise, guidance):
    return {name: x for name, x in observation.items() if name in ("state", "target")}, noise, guidance


def with_the_last_steps(observation, noise, guidance):
    return {name: x[:, -2:] for name, x in observation.items()}, noise, guidance


def with_fitting_prefixes(observation, noise, guidance):
    return observation, noise, [guide for guide in guidance if guide.actions.shape[1] == 6]


def all_steps_of_the_prefix(policy, chunk, guidance):
    if weighing(guidance):
        rows = guidance[0].weights.any(dim=1)
        chunk[rows] = guidance[0].actions[rows]
    return chunk


def another_row(policy, chunk, guidance):
    chunk[0] += 1.0 * weighing(guidance)
    return chunk


def lost_by_a_copy():
    """A policy whose copies predict differently."""

    def __setstate__(self, state):
        nn.Module.__setstate__(self, state)
        self.copies = state.get("copies", 0) + 1

    def predict(self, observation, noise, guidance=()):
        return DiffusionPolicy.predict(self, observation, noise, guidance) + (self.copies > 1)

    return changed(__setstate__=__setstate__, predict=predict)


def kept_outside_of_the_weights():
    """Makes policies that differ in a plain attribute."""
    numbers = count()

    def make():
        policy = predicting(lambda policy, chunk, guidance: chunk + policy.offset)()
        policy.offset = next(numbers)
        return policy

    return make


BROKEN = {
    "no module": (object, "torch.nn.Module, got object"),
    "members": (lambda: nn.Linear(1, 1), "specification, horizons, noise_shape, .* are missing"),
    "specification": (stating("specification", "pusht"), "specification must be a Specification, got 'pusht'"),
    "noise_shape": (stating("noise_shape", [1, 6, 2]), r"noise_shape .* got \[1, 6, 2\]"),
    "negative uniforms": (stating("num_uniforms", -1), "num_uniforms .* got -1"),
    "has_teacher": (stating("has_teacher", 0), "has_teacher must be True or False, got 0"),
    "reduced loss": (losing(lambda policy, lesson, loss: loss.mean(-1)), r"shape .* \(3, 4, 6\), got \(3, 4\)"),
    "loss of nan": (losing(lambda policy, lesson, loss: loss * torch.nan), r"finite, got \[nan"),
    "random loss": (losing(lambda policy, lesson, loss: loss + torch.rand(())), "take lesson.noise and lesson.uniform"),
    "loss over draws": (losing(lambda policy, lesson, loss: loss + loss.mean(0)), "loss of one draw"),
    "loss over rows": (losing(lambda policy, lesson, loss: loss + loss.mean(1, keepdim=True)), "loss of one row"),
    "too few uniforms": (stating("num_uniforms", 0), "num_uniforms .* got 0, but the loss takes more"),
    "hidden teacher": (
        losing(lambda policy, lesson, loss: loss + lesson.teacher.num_uniforms),
        "has_teacher must be True .* got False",
    ),
    "needless teacher": (stating("has_teacher", True), "has_teacher must be False .* got True"),
    "failing loss": (losing(lambda policy, lesson, loss: loss.shame), "no attribute 'shame'"),
    "detached loss": (losing(lambda policy, lesson, loss: loss.detach()), "differentiable"),
    "unused weight": (extended(lambda policy: policy.add_module("extra", nn.Linear(1, 1))), r"not on \['extra.weight'"),
    "infinite gradient": (
        losing(lambda policy, lesson, loss: loss + (0 * loss).sqrt()),
        "gradient of the loss must be finite",
    ),
    "no gradient": (losing(lambda policy, lesson, loss: 0 * loss), "gradient of the loss is 0"),
    "shape of a chunk": (predicting(lambda policy, chunk, _: chunk[:, :3]), r"\(4, 6, 2\), got \(4, 3, 2\)"),
    "chunk of nan": (predicting(lambda policy, chunk, _: chunk * torch.nan), r"finite, got \[nan"),
    "chunk with a gradient": (
        predicting(lambda policy, chunk, _: chunk + 0 * next(policy.parameters()).sum()),
        "must not need a gradient: decorate",
    ),
    "random chunk": (predicting(lambda policy, chunk, _: chunk + torch.rand(())), "to the last bit, .*take the noise"),
    "drawn numbers": (predicting(lambda policy, chunk, _: chunk + 0 * torch.rand(())), "leave torch's random numbers"),
    "unused noise": (asking(lambda observation, noise, guidance: (observation, 0 * noise, guidance)), "1 draws"),
    "mixed rows": (predicting(lambda policy, chunk, _: chunk - chunk.mean(0)), "differs alone by .* batch norms"),
    "missing stream": (asking(with_every_stream), "lacks 'state'"),
    "unknown stream": (asking(with_known_streams), "does not know"),
    "step too many": (asking(with_the_last_steps), "step too many in 'state'"),
    "empty guidance": (predicting(lambda policy, chunk, guidance: chunk + (guidance == [])), "empty list"),
    "prefix without weight": (
        predicting(lambda policy, chunk, guidance: chunk + 1.0 * bool(guidance)),
        "without weight .*exact=False",
    ),
    "gradient without weight": (
        predicting(lambda policy, chunk, guidance: chunk + 1.0 * any(guide.exact for guide in guidance)),
        "without weight .*exact=True",
    ),
    "another row": (predicting(another_row), "rows without weight"),
    "ignored prefix": (asking(lambda observation, noise, _: (observation, noise)), "weight 1 .* differ by"),
    "every step held": (predicting(all_steps_of_the_prefix), "weight 0 must be free"),
    "guided chunk with a gradient": (
        predicting(lambda policy, chunk, guidance: chunk.requires_grad_(weighing(guidance))),
        "guided prediction must not need a gradient",
    ),
    "prefix of another shape": (asking(with_fitting_prefixes), "shape of the chunks"),
    "warm start of nan": (
        predicting(lambda policy, chunk, guidance: chunk * (torch.nan if guidance and guidance[0].start < 1 else 1)),
        "warm start .* got",
    ),
    "copy": (lost_by_a_copy(), "copy must predict the same"),
    "shared weights": (extended(lambda policy: policy.add_module("twin", policy.network.head)), "safetensors"),
    "state outside of the weights": (kept_outside_of_the_weights(), "loaded state_dict, but differs by 1: hold"),
    "double": (predicting(lambda policy, chunk, _: chunk.double()), "float32, got torch.float64"),
    "always single": (predicting(lambda policy, chunk, _: chunk.float()), "float64, got torch.float32"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_named(make, message):
    with pytest.raises((ValueError, AttributeError), match=message):
        check_policy(make)


def test_the_report_says_what_was_observed():
    report = recede.check_policy(diffusion)
    for text in ("target (2,) -> action (2,)", "(K, B, L) = (3, 4, 6)", "(1, 6, 2), and nothing else", "94 tensors"):
        assert text in report
    assert "(0, 6, 2), and nothing else" in check_policy(regression)


def test_the_device_follows_the_inputs(monkeypatch):
    """The device "meta" stands for an accelerator: it computes shapes alone."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta"))
    assert "to meta" in check_policy(diffusion)
    with pytest.raises(ValueError, match="device of the weights and the inputs, meta, got cpu"):
        check_policy(predicting(lambda policy, chunk, _: torch.zeros(chunk.shape) if chunk.is_meta else chunk))


def test_a_policy_is_copied_and_not_changed():
    policy = diffusion().train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    check_policy(lambda: policy)
    assert policy.training
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_streams_are_drawn_within_their_limits():
    states = []
    place = replace(SPECIFICATION.observations[0], low=2.0, high=3.0)
    specification = replace(SPECIFICATION, observations=(place, SPECIFICATION.observations[1]))

    def make():
        policy = diffusion(specification)
        policy.encoder.register_forward_pre_hook(lambda module, arguments: states.append(arguments[0]["state"]))
        policy.normalizer.streams["state"].half_range.fill_(4.0)
        return policy

    check_policy(make)
    assert torch.stack([x.min() for x in states]).min() >= 0.5
    assert torch.stack([x.max() for x in states]).max() <= 0.75


def test_a_policy_of_images_is_checked():
    report = check_policy(partial(cameras.policy_of, cameras.SCENE, cameras.STATE, crop=[14, 12]))
    assert "scene (24, 32, 3)" in report
