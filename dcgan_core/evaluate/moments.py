"""Mean and covariance of features, streamed in float64: what a Frechet distance needs of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable

_ROWS = 1024  # a float64 copy of so many rows is made at a time


@dataclass(eq=False)
class Moments:
    """Count, mean and scatter of the features seen so far; ``update`` and ``merge`` change them in place.

    Equal, up to float64 rounding, however the features are cut into batches or the batches are spread over
    processes and merged. Chan, Golub and LeVeque 1983: deviations are taken from the mean of their own
    batch, so features that are large beside their spread lose nothing.
    """

    count: int
    mean_F: Tensor
    """float64 (F,)."""
    scatter_FF: Tensor
    """float64 (F, F): the sum of outer products of deviations from the mean."""

    @classmethod
    def empty(cls, features: int, device: torch.device | str = "cpu") -> Self:
        mean_F = torch.zeros(features, dtype=torch.float64, device=device)
        return cls(0, mean_F, mean_F.new_zeros(features, features))

    @torch.no_grad()
    def update(self, features_NF: Tensor, what: str = "features") -> None:
        """Take more rows (N, F) of any float type. FeaturesUnusable names ``what`` if they are not finite."""
        for rows_BF in checked(features_NF, what, len(self.mean_F)).split(_ROWS):
            if not len(rows_BF):
                continue
            x_BF = rows_BF.to(self.mean_F.device, torch.float64)
            mean_F = x_BF.mean(0)
            self._join(len(x_BF), mean_F, x_BF - mean_F)

    @torch.no_grad()
    def merge(self, other: Moments) -> None:
        """Take what another has seen. FeaturesUnusable for other widths."""
        if len(other.mean_F) != len(self.mean_F):
            raise _other_width("moments", len(other.mean_F), len(self.mean_F))
        if other.count:
            device = self.mean_F.device
            self.scatter_FF += other.scatter_FF.to(device)
            self._join(other.count, other.mean_F.to(device), self.mean_F.new_zeros(0, len(self.mean_F)))

    @property
    def covariance_FF(self) -> Tensor:
        """Unbiased, float64. FeaturesUnusable for fewer than two rows."""
        if self.count < 2:
            raise FeaturesUnusable("moments", f"{self.count} rows have no covariance", "give two or more")
        return self.scatter_FF / (self.count - 1)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """For ``np.savez``; the inverse is ``from_arrays``."""
        return {
            "count": np.array(self.count, np.int64),
            "mean_F": self.mean_F.cpu().numpy(),
            "scatter_FF": self.scatter_FF.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        mean_F, scatter_FF = (torch.from_numpy(np.array(arrays[name])) for name in ("mean_F", "scatter_FF"))
        return cls(int(arrays["count"]), mean_F, scatter_FF)

    def _join(self, count: int, mean_F: Tensor, centred_BF: Tensor) -> None:
        """The distance of the means counts as one more deviation, so that one product does all."""
        total = self.count + count
        apart_F = mean_F - self.mean_F
        rows = torch.cat([centred_BF, apart_F[None] * (self.count * count / total) ** 0.5])
        self.scatter_FF.addmm_(rows.T, rows)
        self.mean_F += apart_F * (count / total)
        self.count = total


def checked(features_NF: Tensor, what: str, width: int | None = None) -> Tensor:
    """The features, if they are a finite matrix (N, F) of the width asked for.

    Raises FeaturesUnusable, which names ``what`` and the first row that is not finite.
    """
    if features_NF.ndim != 2:
        shape = tuple(features_NF.shape)
        raise FeaturesUnusable(what, f"the shape is {shape}", "give a matrix with a row an image")
    if width is not None and features_NF.shape[1] != width:
        raise _other_width(what, features_NF.shape[1], width)
    finite_N = torch.isfinite(features_NF).all(1)
    if not finite_N.all():
        row = int((~finite_N).int().argmax())
        raise FeaturesUnusable(
            what,
            f"row {row} and {int((~finite_N).sum()) - 1} others hold NaN or infinity",
            "look at the images and the net that they come from: a diverged net makes such",
        )
    return features_NF


def _other_width(what: str, found: int, wanted: int) -> FeaturesUnusable:
    return FeaturesUnusable(what, f"{found} features beside {wanted}", "take both sides from the same net")
