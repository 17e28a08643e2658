"""Where the hand of an arm is, and the joints that bring it there, both in closed form.

The arm turns about z (`shoulder_pan`), and two links of `UPPER` and `FORE` metres bend in its plane (`shoulder_lift`,
`elbow_flex`). The axes of the three joints of its wrist (`wrist_flex`, `wrist_yaw`, `wrist_roll`) meet in one point,
`HAND` metres behind the point between the fingertips, so position and orientation separate (Pieper 1968).

Positions are metres from the foot of the arm; x points forward and z up. An orientation is (yaw, pitch, roll) in rad:
the hand, which points down, turns about its own axis by the yaw and then leans to the side by the roll (about x) and
back by the pitch (about y). With an upright wrist these are the angles of its joints, too.

All functions take arrays with any leading axes (...).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHOULDER, UPPER, FORE, HAND = 0.17, 0.185, 0.215, 0.13
"""Height of the shoulder, lengths of the links, and the way from the wrist to the point between the fingertips (m)."""


def forward(joints: Array) -> tuple[Array, Array]:
    """Position (..., 3) and orientation (..., 3) of the hand at the joints (..., 6) in rad."""
    pan, lift, elbow, flex, side, turn = np.moveaxis(joints.astype(np.float64), -1, 0)
    fore, tilt = lift + elbow, lift + elbow + flex - np.pi
    x = UPPER * np.sin(lift) + FORE * np.sin(fore) - HAND * np.sin(tilt) * np.cos(side)
    y = HAND * np.sin(side)
    z = SHOULDER + UPPER * np.cos(lift) + FORE * np.cos(fore) - HAND * np.cos(tilt) * np.cos(side)
    position = np.stack([np.cos(pan) * x - np.sin(pan) * y, np.sin(pan) * x + np.cos(pan) * y, z], axis=-1)
    return position, np.stack(_turned(pan, turn, tilt, side), axis=-1)


def inverse(position: Array, orientation: Array) -> Array:
    """The joints (..., 6) that bring the hand to a position (..., 3) and orientation (..., 3), the elbow up.

    A position out of reach gives the joints of a stretched or folded arm that points there.
    """
    x, y, z = np.moveaxis(np.asarray(position, np.float64), -1, 0)
    yaw, pitch, roll = np.moveaxis(np.asarray(orientation, np.float64), -1, 0)
    x = x + HAND * np.sin(pitch) * np.cos(roll)  # of the wrist
    y = y - HAND * np.sin(roll)
    z = z + HAND * np.cos(pitch) * np.cos(roll) - SHOULDER
    pan, out = np.arctan2(y, x), np.hypot(x, y)
    cosine = (out**2 + z**2 - UPPER**2 - FORE**2) / (2 * UPPER * FORE)
    elbow = np.arccos(np.clip(cosine, -1.0, 1.0))
    lift = np.arctan2(out, z) - np.arctan2(FORE * np.sin(elbow), UPPER + FORE * np.cos(elbow))
    turn, tilt, side = _turned(-pan, yaw, pitch, roll)
    flex = (tilt + 2 * np.pi - lift - elbow) % (2 * np.pi) - np.pi
    return np.stack([pan, lift, elbow, flex, side, turn], axis=-1)


def _turned(angle: Array, yaw: Array, pitch: Array, roll: Array) -> tuple[Array, Array, Array]:
    """Yaw, pitch and roll of an orientation after a turn about the z axis by an angle."""
    sine, cosine = np.sin(angle), np.cos(angle)
    (sin_yaw, sin_pitch, sin_roll), (cos_yaw, cos_pitch, cos_roll) = (
        [function(angle) for angle in (yaw, pitch, roll)] for function in (np.sin, np.cos)
    )
    x = cos_pitch * cos_yaw + sin_pitch * sin_roll * sin_yaw, sin_pitch * sin_roll * cos_yaw - cos_pitch * sin_yaw
    across = [sine * along + cosine * cos_roll * part for along, part in zip(x, (sin_yaw, cos_yaw), strict=True)]
    axis = sin_pitch * cos_roll  # of the hand, along x before the turn
    lean = np.clip(cosine * sin_roll - sine * axis, -1.0, 1.0)
    return np.arctan2(*across), np.arctan2(cosine * axis + sine * sin_roll, cos_pitch * cos_roll), np.arcsin(lean)
