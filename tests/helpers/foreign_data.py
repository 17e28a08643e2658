"""Small data sets in the layouts that other libraries publish, written here byte for byte by their descriptions."""

import numpy as np


def names_of(dataset):
    return [dataset.episode_name(episode) for episode in range(len(dataset.episode_lengths))]


def rows(seed, length):
    """The columns of an episode as a robot's recorder would have them."""
    rng = np.random.default_rng(seed)
    return {
        "qpos": rng.normal(size=(length, 3)),
        "gripper": rng.random(length) < 0.5,
        "image": rng.integers(0, 256, (length, 3, 24, 20), dtype=np.uint8),
        "action": rng.normal(size=(length, 2)).astype("float32"),
    }


def write_npz(folder, lengths=(7, 5, 9)):
    """Files whose order by name differs from their order by number."""
    folder.mkdir()
    for index, length in enumerate(lengths):
        np.savez(folder / f"episode_{index + 8}.npz", **rows(index, length))
    return folder


def write_npy(folder, lengths=(7, 5, 9)):
    for index, length in enumerate(lengths):
        episode = folder / f"episode_{index + 8}"
        episode.mkdir(parents=True)
        for key, values in rows(index, length).items():
            np.save(episode / f"{key}.npy", values)
    return folder
