"""PyTorch with the GPU, and the renderer of pictures. Each is tried in its own process, because drivers may crash."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..envs.faults import one_line
from .children import END_S, NoAnswer, answer
from .packages import installed
from .report import Facts, Finding

TORCH_S, RENDERING_S, DRIVER_S = 120.0, 60.0, 10.0
"""Longest times to load torch and try the GPU, to draw a picture, and to ask the driver, s."""

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")
"""Renderers on the CPU, by a part of their names."""

SCENE = "<mujoco><worldbody><camera name='c' pos='0 0 1'/><geom size='.1'/></worldbody></mujoco>"


def look_at_torch(facts: Facts) -> Iterator[Finding]:
    """Whether torch loads, what it computes with, and whether it sees the GPUs of the driver."""
    facts["gpus of the driver"] = driver = gpus_of_driver()
    if driver is None:
        what = f"the driver does not answer: nvidia-smi did not return within {DRIVER_S:g} s"
        yield Finding("problem", f"{what}, and whatever asks for a GPU may wait for ever", "restart the machine")
    reply = answer(torch_facts, driver is not None, seconds=TORCH_S)
    if isinstance(reply, NoAnswer):
        facts["torch"] = None
        version = installed("torch")
        remedy = f"pip install --force-reinstall torch=={version}" if version else "pip install torch"
        yield Finding("problem", f"torch cannot be loaded, so nothing is trained here: {reply.reason}", remedy)
        return
    facts |= reply
    yield Finding("ok", f"torch {reply['torch']}, {reply['instructions']}, {reply['threads']} threads")
    if driver is not None:
        yield from _gpus(reply["gpus"], driver, reply["cuda"])


def torch_facts(may_ask_the_driver: bool, /) -> Iterator[dict[str, Any]]:
    """What torch says of itself, and whether each GPU computes."""
    import torch

    gpus: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if may_ask_the_driver and torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(index)
        gpu = {"name": torch.cuda.get_device_name(index), "free": round(free / 1e9, 1), "memory": round(whole / 1e9, 1)}
        try:
            square = torch.ones(64, 64, device=f"cuda:{index}")
            gpu["fault"] = "" if (square @ square)[0, 0].item() == 64 else "a product of matrices is wrong"
        except RuntimeError as error:
            gpu["fault"] = one_line(str(error).partition("\n")[0])
        gpus.append(gpu)
    yield {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def gpus_of_driver() -> list[str] | None:
    """The GPUs that NVIDIA's driver lists, with its version; empty without a driver, None if it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        query = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return []
    try:
        listed, _ = query.communicate(timeout=DRIVER_S)
    except subprocess.TimeoutExpired:
        query.kill()
        with suppress(subprocess.TimeoutExpired):  # `subprocess.run` would wait for it without an end
            query.communicate(timeout=END_S)
        return None
    return [line.strip() for line in listed.splitlines() if line.strip()] if query.returncode == 0 else []


def _gpus(gpus: list[dict[str, Any]], driver: list[str], cuda: str | None) -> Iterator[Finding]:
    for gpu in gpus:
        text = f"{gpu['name']}, {gpu['free']:.1f} of {gpu['memory']:.1f} GB of memory free"
        if gpu["fault"]:
            remedy = "install a build of torch for this GPU, or use device=cpu"
            yield Finding("problem", f"{text}: torch sees it and cannot compute there: {gpu['fault']}", remedy)
        else:
            yield Finding("ok", text)
    if gpus:
        return
    if not driver:
        yield Finding("note", "no GPU: everything runs on the CPU", "docs/gpu.md says what a GPU would gain")
        return
    build = f"it was built for CUDA {cuda}, which the driver may be too old for" if cuda else "it is the build for CPUs"
    remedy = (
        "update the driver, and unset CUDA_VISIBLE_DEVICES if it hides the GPU"
        if cuda
        else "install the build for CUDA, as https://pytorch.org says"
    )
    yield Finding("warning", f"the driver lists {'; '.join(driver)}, but torch sees no GPU: {build}", remedy)


def look_at_rendering(facts: Facts) -> Iterator[Finding]:
    """Whether pictures can be drawn, and by what."""
    reply = answer(draw, seconds=RENDERING_S)
    if isinstance(reply, NoAnswer):
        remedy = (
            "on Debian, apt-get install libegl1 libgl1-mesa-dri, and unset MUJOCO_GL; only images, films and reports "
            "need it"
        )
        facts["renderer"] = None
        yield Finding("warning", f"no picture can be drawn: {reply.reason}", remedy)
        return
    facts["renderer"] = reply
    text = f"MuJoCo draws by {reply}"
    if any(name in reply.lower() for name in SOFTWARE):
        yield Finding("note", f"{text}, on the CPU", "with a GPU, the EGL library of its driver draws faster")
    else:
        yield Finding("ok", text)


def draw() -> Iterator[str]:
    """Draw a picture of a small scene; the name of what drew it."""
    from ..envs.physics import Cameras, mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    cameras = Cameras(model, max_size=16)
    if not cameras.picture(data, "c", 16).any():
        raise ValueError("the picture is black")
    name = "a renderer without a name"
    with suppress(Exception):  # only its name is lost
        from OpenGL import GL

        text: Any = GL.glGetString(GL.GL_RENDERER)
        name = text.decode()
    yield name
