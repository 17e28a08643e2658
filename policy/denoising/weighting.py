"""How much each noise level counts in the loss: one function per choice.

A weight multiplies the squared error of x_0. It depends on the signal-to-noise ratio snr = alpha^2 / sigma^2 and on
`own`, the weight that the prediction type implies (`Prediction.weight`). For example, an unweighted error of epsilon
weighs the error of x_0 by the signal-to-noise ratio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def uniform(snr: Tensor, own: Tensor) -> Tensor:
    """Weigh the error of the network's output equally at all noise levels (Ho et al. 2020, eq. 14)."""
    return own


def by_snr(snr: Tensor, own: Tensor) -> Tensor:
    """Weigh the error of x_0 by the signal-to-noise ratio, as an unweighted epsilon prediction does."""
    return snr


def min_snr(snr: Tensor, own: Tensor, *, limit: float) -> Tensor:
    """Weigh by the signal-to-noise ratio, at most `limit` (Hang et al. 2023, eq. 8)."""
    return snr.clamp(max=limit)


def edm(snr: Tensor, own: Tensor, *, data_std: float) -> Tensor:
    """Weigh an output of unit variance equally at all noise levels (Karras et al. 2022, section 5).

    Their weight is (s^2 + data_std^2) / (s data_std)^2 with s = sigma / alpha. data_std: standard deviation of the
    normalised actions.
    """
    return snr + data_std**-2
