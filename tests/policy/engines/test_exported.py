"""Exported graphs agree with PyTorch for every sampler and prediction, and depend on nothing of this machine."""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import recede
from engines import assert_close, policy_chunk, random_input
from policies import USUAL, diffusion
from recede.configs.components import denoising
from recede.policy.denoising import prediction
from recede.policy.denoising.schedule import cosine, rectified_flow
from recede.policy.diffusion import DiffusionPolicy
from recede.policy.engines.eager import EagerEngine
from recede.policy.engines.export import to_openvino, write_onnx
from recede.policy.engines.folder import open_session
from recede.policy.engines.interface import FORMATS, num_threads
from recede.policy.engines.making import make_engine
from recede.policy.engines.pieces import exported_engine

SAMPLERS = {
    "ddim": denoising.DDIMConfig(num_steps=4),
    "ddim with noise": denoising.DDIMConfig(num_steps=4, eta=0.5),
    "ddim, keeping epsilon": denoising.DDIMConfig(num_steps=4, spacing="leading", keeps_epsilon=True),
    "ddpm": denoising.DDPMConfig(num_steps=10),
    "dpm_solver_2m": denoising.DPMSolver2MConfig(num_steps=4),
    "heun": denoising.HeunConfig(num_steps=4),
    "karras": denoising.KarrasSamplerConfig(num_steps=4, churn=9.0),
    "langevin": denoising.LangevinConfig(num_steps=3, corrections=2),
    "euler_maruyama": denoising.EulerMaruyamaConfig(num_steps=4),
}
PREDICTIONS = {
    "epsilon": prediction.EPSILON,
    "sample": prediction.SAMPLE,
    "v": prediction.V,
    "velocity": prediction.VELOCITY,
}


def variant(policy, sampler, kind, schedule):
    """A policy with the same encoder and network and another way of denoising."""
    return DiffusionPolicy(
        policy.specification,
        policy.horizons,
        normalizer=policy.normalizer,
        encoder=policy.encoder,
        network=policy.network,
        schedule=schedule,
        prediction=PREDICTIONS[kind],
        sampler=SAMPLERS[sampler].build(schedule),
        **USUAL,
    ).eval()


def cases():
    """Every sampler and every prediction with one network in one format, and one of them with more."""
    for network, sampler, kind, name in product(["unet1d", "transformer", "dit"], SAMPLERS, PREDICTIONS, FORMATS):
        is_one = kind == "v" or sampler == "heun"
        is_quick = ((network, name) == ("unet1d", "onnx") and is_one) or (
            network != "dit" and (sampler, kind) == ("heun", "v")
        )
        yield pytest.param(network, sampler, kind, name, marks=[] if is_quick else [pytest.mark.slow])


@pytest.mark.parametrize(("network", "sampler", "kind", "name"), list(cases()))
def test_every_sampler_and_prediction_agrees_with_the_policy(workshop, network, sampler, kind, name):
    for schedule in (cosine(20), rectified_flow(20)):
        if kind == "epsilon" and schedule.levels[-1].alpha == 0:
            continue  # at pure noise, epsilon does not determine the sample
        policy = variant(workshop.policy(network), sampler, kind, schedule)
        observation, noise = random_input(policy)
        expected = policy_chunk(policy, observation, noise)
        engine = workshop.engine(network, name, policy)
        assert_close(engine, engine.predict(observation, noise), expected, policy)
        if policy.sampler.num_draws:  # the noise that the sampler adds
            changed = noise.copy()
            changed[1:] += 1
            assert np.abs(engine.predict(observation, changed) - expected).max() > 1e-3


def test_a_chunk_is_encoded_once_and_times_are_a_table(workshop, monkeypatch):
    policy, session = workshop.policy("unet1d"), workshop.session("unet1d", "onnx")
    calls, run = [], session.run
    monkeypatch.setattr(session, "run", lambda graph, inputs: calls.append(graph) or run(graph, inputs))
    engine = exported_engine(policy, session)
    monkeypatch.setattr(policy.network, "embed", None)  # must not be needed any more
    engine.predict(*random_input(policy))
    assert calls == ["encode", *["denoise"] * 4]


def test_schedulers_of_diffusers_stay_in_pytorch():
    policy = diffusion(sampler=denoising.DiffusersSamplerConfig(name="DDIMScheduler", num_steps=4))
    with pytest.raises(ValueError, match="choose sampler=ddim"):
        make_engine(policy, "onnx")
    assert make_engine(policy, "eager")[0].name == "eager"


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_the_error_for_a_missing_package_names_its_extra(workshop, monkeypatch, engine, package):
    folder = workshop.graphs("unet1d", FORMATS[engine])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"engine={engine} .*pip install 'recede\[{engine}\]'"):
        open_session(engine, folder)


def test_engines_use_the_threads_of_openmp(monkeypatch):
    for value, expected in (("3", 3), ("", 0), ("2,1", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert num_threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert num_threads() == 0


@pytest.mark.slow
def test_large_weights_are_in_a_second_file(workshop, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    policy = workshop.policy("regression")
    write_onnx(policy, tmp_path / "onnx")
    assert (tmp_path / "onnx/denoise.onnx.data").stat().st_size > 1000
    to_openvino(tmp_path / "onnx", tmp_path / "openvino")
    observation, noise = random_input(policy)
    expected = EagerEngine(policy).predict(observation, noise)
    for name in FORMATS:
        engine = exported_engine(policy, open_session(name, tmp_path / FORMATS[name]))
        assert_close(engine, engine.predict(observation, noise), expected, policy)


def test_graphs_contain_no_path_of_this_machine(workshop):
    files = [*workshop.graphs("unet1d", "onnx").iterdir(), *workshop.graphs("unet1d", "openvino").iterdir()]
    paths = [str(Path(recede.__file__).parent), str(workshop.root)]
    assert not [file.name for file in files for path in paths if path.encode() in file.read_bytes()]
