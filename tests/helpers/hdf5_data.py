"""Small HDF5 files in the layouts that robomimic, LIBERO, ALOHA and ManiSkill publish."""

import io
import json

import h5py
import numpy as np
from PIL import Image

LENGTHS = (7, 5, 9)
ENV_ARGS = {
    "env_name": "Lift",
    "type": 1,
    "env_kwargs": {
        "control_freq": 20,
        "robots": ["Panda"],
        "controller_configs": {"type": "OSC_POSE", "control_delta": True},
    },
}


def demo(seed, length):
    """The arrays of a demonstration of robomimic, which ends with a reward of 1."""
    rng = np.random.default_rng(seed)
    last = np.arange(length) == length - 1
    arrays = {
        "actions": rng.uniform(-1, 1, (length, 7)),
        "states": rng.normal(size=(length, 32)),
        "rewards": last.astype(float),
        "dones": last.astype(int),
    }
    for group in ("obs", "next_obs"):
        arrays[f"{group}/robot0_eef_pos"] = rng.normal(size=(length, 3))
        arrays[f"{group}/agentview_image"] = rng.integers(0, 256, (length, 24, 20, 3), dtype=np.uint8)
    return arrays


def write_robomimic(path, lengths=LENGTHS, env_args=ENV_ARGS, keep=lambda key: True):
    """Demonstrations whose order by name differs from their order by number. keep: which arrays to write."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["total"] = sum(lengths)
        for index, length in enumerate(lengths):
            group = data.create_group(f"demo_{index + 8}")
            group.attrs["num_samples"] = length
            group.attrs["model_file"] = "<mujoco/>" * 5000
            for key, values in demo(index, length).items():
                if keep(key):
                    group.create_dataset(key, data=values, compression="gzip" if "image" in key else None)
        file["mask/train"] = np.array([b"demo_8", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_9"])
    return path


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg")
    return file.getvalue()


def write_aloha(folder, lengths=LENGTHS, *, is_compressed=False):
    """A file for each episode, with images as they are, or as rows of bytes that zeros pad to one length."""
    folder.mkdir()
    for index, length in enumerate(lengths):
        rng = np.random.default_rng(index)
        images = rng.integers(0, 256, (length, 24, 20, 3), dtype=np.uint8)
        with h5py.File(folder / f"episode_{index + 8}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file["action"] = rng.normal(size=(length, 14)).astype("float32")
            file["observations/qpos"] = rng.normal(size=(length, 14))
            if is_compressed:
                files = [jpeg(image) for image in images]
                longest = max(map(len, files)) + 10
                padded = [np.frombuffer(content.ljust(longest, b"\0"), dtype=np.uint8) for content in files]
                file["observations/images/top"] = np.stack(padded)
                file["compress_len"] = np.array([[len(content) for content in files]], dtype="float32")
                file.attrs["compress"] = True
            else:
                file["observations/images/top"] = images
    return folder


def write_maniskill(path, lengths=LENGTHS):
    """Trajectories with an observation more than actions, of which the second one fails."""
    with h5py.File(path, "w") as file:
        for index, length in enumerate(lengths):
            rng = np.random.default_rng(index)
            group = file.create_group(f"traj_{index}")
            group["actions"] = rng.normal(size=(length, 4)).astype("float32")
            group["obs"] = rng.normal(size=(length + 1, 6)).astype("float32")
            group["success"] = np.arange(length) >= (length - 1 if index != 1 else length)
    return path


INFINITE, UNIT = {"low": [-float("inf")] * 3, "high": [float("inf")] * 3}, {"low": [-1.0, -2.0], "high": [1.0, 2.0]}


def box(shape, dtype="float32", **limits):
    return {"type": "Box", "dtype": dtype, "shape": shape, **limits}


OBSERVATION_SPACE = {
    "type": "Dict",
    "subspaces": {
        "position": box([3], **INFINITE),
        "image": box([40, 36, 3], "uint8", low=np.zeros((40, 36, 3)).tolist(), high=np.full((40, 36, 3), 255).tolist()),
        "pair": {"type": "Tuple", "subspaces": [box([2], **UNIT), {"type": "Discrete", "start": 0, "n": 4}]},
    },
}


def minari_episode(index, length):
    """The arrays of an episode of Minari, with an observation more than actions; images as files of JPEG."""
    rng = np.random.default_rng(index)
    images = rng.integers(0, 256, (length + 1, 40, 36, 3), dtype=np.uint8)
    return {
        "observations/position": rng.normal(size=(length + 1, 3)).astype("float32"),
        "observations/pair/_index_0": rng.uniform(-1, 1, (length + 1, 2)).astype("float32"),
        "observations/pair/_index_1": rng.integers(0, 4, length + 1),
        "observations/image": [jpeg(image) for image in images],
        "actions": rng.uniform(-1, 1, (length, 2)).astype("float32"),
        "rewards": np.ones(length),
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, dtype=bool),
        "infos/success": np.arange(length + 1) == (length if index != 1 else -1),
    }


def write_minari(folder, lengths=LENGTHS, **metadata):
    """A data set with a Dict of a vector, an image and a Tuple, as Minari 0.5 writes it."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for index in reversed(range(len(lengths))):
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "seed": 100 + index, "total_steps": lengths[index], "options/light": 0.5})
            for key, values in minari_episode(index, lengths[index]).items():
                if isinstance(values, list):
                    array = group.create_dataset(key, (len(values),), h5py.vlen_dtype(np.uint8))
                    for row, content in enumerate(values):
                        array[row] = np.frombuffer(content, dtype=np.uint8)
                else:
                    group.create_dataset(key, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
    content = {
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "data_format": "hdf5",
        "observation_space": json.dumps(OBSERVATION_SPACE),
        "action_space": json.dumps(box([2], **UNIT)),
        "env_spec": json.dumps({"id": "Push-v1", "kwargs": {"render_fps": 12.5}}),
        "dataset_id": "push/human-v0",
        "minari_version": "0.5.4",
    }
    (folder / "data" / "metadata.json").write_text(json.dumps(content | metadata))
    return folder
