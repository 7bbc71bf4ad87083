"""Single-layer K-means features (Coates, Lee and Ng 2011): what little it takes to beat raw pixels.

Steps and constants are those of the authors' demo (``kmeans_demo``, ``run_kmeans``, ``extract_features``),
whose plain K-means gave the published 79.6 % on CIFAR-10 with 4,000 centroids; the spherical kind is of a
later paper (Coates and Ng 2012). Nothing here sees a label; what is learned is learned from training images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dcgan_core.errors import ConfigError
from dcgan_core.progress import Progress, share_of, silent

CONTRAST = 10.0
"""Added to a patch's variance, of values 0 to 255, before it is divided by its square root."""
WHITENING = 0.1
"""Added to the variance along each principal axis before it is brought to one."""
FEATURE_VARIANCE = 0.01
"""Added to a feature's variance before it is brought to one."""

_CACHED = 1 << 20
"""Distances (float32) computed at a time on a processor: a few MB, so that passes over them are cached."""
_ON_DEVICE = 1 << 27
_SHOWN = 64
"""Images between two reports of progress: a block may be a single image."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """What K-means has learned from training patches of D = channels x patch_size^2 values; float32."""

    patch_size: int
    mean_D: Tensor
    whitening_DD: Tensor
    centroids_KD: Tensor
    empty: int
    """Centroids that no patch was nearest to at the end; they lie at zero, as in the authors' code."""

    @property
    def width(self) -> int:
        """Features of an image."""
        return 4 * len(self.centroids_KD)

    def to(self, device: torch.device | str) -> Encoder:
        mean_D, whitening_DD = self.mean_D.to(device), self.whitening_DD.to(device)
        return Encoder(self.patch_size, mean_D, whitening_DD, self.centroids_KD.to(device), self.empty)


def kmeans_features(
    train_images_NHWC: NDArray[np.uint8],
    test_images_MHWC: NDArray[np.uint8],
    *,
    centroids: int,
    seed: int,
    patches: int = 400_000,
    patch_size: int = 6,
    iterations: int = 50,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    train_out_NF: NDArray[np.float32] | None = None,
    test_out_MF: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardised features float32 (N, 4 x centroids), (M, 4 x centroids), ready for a linear classifier.

    Patches, whitening, centroids and the features' means and deviations come from the training images alone.
    The authors' L2-SVM on them had C = 100 over the *mean* squared hinge: 100 / N as liblinear counts.
    With ``..._out`` (memory-mapped, say) features are written there. Same arguments, same device: same
    features. Raises ConfigError for images without four quadrants of patches.
    """
    images = len(train_images_NHWC) + len(test_images_MHWC)
    places = math.prod(max(1, side - patch_size + 1) for side in train_images_NHWC.shape[1:3])
    learning, training = patches * iterations, len(train_images_NHWC) * places  # each one row of distances
    whole = learning + images * places
    encoder = learn(
        train_images_NHWC,
        centroids=centroids,
        seed=seed,
        patches=patches,
        patch_size=patch_size,
        iterations=iterations,
        device=device,
        progress=share_of(progress, 0, learning / whole),
    )
    seen = (learning + training) / whole
    of_training, of_test = share_of(progress, learning / whole, seen), share_of(progress, seen, 1)
    train_NF = encode(encoder, train_images_NHWC, out=train_out_NF, progress=of_training)
    test_MF = encode(encoder, test_images_MHWC, out=test_out_MF, progress=of_test)
    mean_F, scale_F = moments(train_NF)
    for features_NF in (train_NF, test_MF):
        standardise(features_NF, mean_F, scale_F)
    return train_NF, test_MF


def learn(
    train_images_NHWC: NDArray[np.uint8],
    *,
    centroids: int,
    seed: int,
    patches: int = 400_000,
    patch_size: int = 6,
    iterations: int = 50,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Encoder:
    """Patches drawn, normalised, whitened and clustered; the encoder lies on ``device``.

    ``progress`` counts iterations. Raises ConfigError where images or patches are too small or too few.
    """
    if patches < centroids:
        raise ConfigError(
            f"{centroids} centroids cannot be found in {patches} patches; draw more or ask for fewer"
        )
    random = np.random.default_rng(seed)
    drawn_PD = random_patches(train_images_NHWC, patches, patch_size, random)
    normal_PD = normalised(torch.from_numpy(drawn_PD).float())
    mean_D, whitening_DD = zca(normal_PD)
    white_PD = ((normal_PD - mean_D) @ whitening_DD).to(device)
    # The authors' start: small random vectors, which take what is nearest and spread out within a few rounds.
    start_KD = 0.1 * random.standard_normal((centroids, white_PD.shape[1]), np.float32)
    found_KD, empty = lloyd(white_PD, torch.from_numpy(start_KD).to(device), iterations, progress=progress)
    return Encoder(patch_size, mean_D.to(device), whitening_DD.to(device), found_KD, empty)


def random_patches(
    images_NHWC: NDArray[np.uint8], count: int, size: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Square patches (count, C x size x size) at random places, all images in turn; channel, row, column.

    Raises ConfigError for images on which patches of this size have fewer than two places a side.
    """
    _, height, width, channels = images_NHWC.shape
    if min(height, width) <= size:
        raise ConfigError(f"patches of {size} px have no four quadrants in images of {width}x{height} px")
    places_NRSCKK = sliding_window_view(images_NHWC, (size, size), axis=(1, 2))  # pyright: ignore[reportArgumentType, reportCallIssue]
    which = random.permutation(len(images_NHWC))[np.arange(count) % len(images_NHWC)]
    rows = random.integers(0, height - size + 1, count)
    columns = random.integers(0, width - size + 1, count)
    return places_NRSCKK[which, rows, columns].reshape(count, channels * size * size)


def normalised(patches_PD: Tensor) -> Tensor:
    """Each patch (of values 0 to 255) without its mean and divided by sqrt(its unbiased variance + 10)."""
    variance_P1, mean_P1 = torch.var_mean(patches_PD, dim=1, keepdim=True)
    return (patches_PD - mean_P1) / (variance_P1 + CONTRAST).sqrt()


def zca(patches_PD: Tensor) -> tuple[Tensor, Tensor]:
    """Their mean (D,) and the symmetric matrix (D, D) that whitens what lies around it; found in float64."""
    mean_D = patches_PD.double().mean(0)
    values_PD = patches_PD - mean_D  # float64
    variance_D, axes_DD = torch.linalg.eigh(values_PD.T @ values_PD / (len(values_PD) - 1))
    whitening_DD = (axes_DD * (variance_D.clamp_min(0) + WHITENING).rsqrt()) @ axes_DD.T
    return mean_D.to(patches_PD.dtype), whitening_DD.to(patches_PD.dtype)


def lloyd(
    points_PD: Tensor, start_KD: Tensor, iterations: int, *, progress: Progress = silent
) -> tuple[Tensor, int]:
    """(centroids (K, D), how many of them are empty) after some rounds of plain K-means.

    Ties go to the lower centroid; one to which no point is nearest goes to zero, whence it may come back.
    """
    centroids_KD, empty = start_KD, 0
    block = _rows_at_once(points_PD.device, len(start_KD))
    for iteration in range(iterations):
        progress(iteration, iterations, f"K-means, round {iteration + 1} of {iterations}")
        sums_KD, counts_K = torch.zeros_like(start_KD), torch.zeros_like(start_KD[:, 0])
        half_K = -0.5 * centroids_KD.square().sum(1)
        for points_BD in points_PD.split(block):
            # The nearest centroid maximises x.c - |c|^2 / 2.
            nearest_B = torch.addmm(half_K, points_BD, centroids_KD.T).argmax(1)
            _add_rows(sums_KD, nearest_B, points_BD)
            counts_K += torch.bincount(nearest_B, minlength=len(counts_K))
        centroids_KD = sums_KD / counts_K.clamp_min(1)[:, None]
        empty = int((counts_K == 0).sum())
    return centroids_KD, empty


def encode(
    encoder: Encoder,
    images_NHWC: NDArray[np.uint8],
    *,
    out: NDArray[np.float32] | None = None,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Triangle activations of all patches, summed over the four quadrants: float32 (N, 4 x K).

    A patch z away from each centroid answers max(0, mean(z) - z). Features are quadrant by quadrant (top
    left, bottom left, top right, bottom right; an odd row or column belongs to the first), within each in the
    order of the centroids. With ``out``, an array of that shape or such rows of a larger one (memory-mapped,
    say), they are written there. ``progress`` counts images. Raises ValueError where ``out`` does not fit,
    ConfigError for images that have no four quadrants.
    """
    shape = (len(images_NHWC), encoder.width)
    features_NF = np.empty(shape, np.float32) if out is None else out
    if features_NF.shape != shape or features_NF.dtype != np.float32:
        raise ValueError(f"features are float32 {shape}, out is {features_NF.dtype} {features_NF.shape}")
    size = encoder.patch_size
    rows, columns = images_NHWC.shape[1] - size + 1, images_NHWC.shape[2] - size + 1
    if min(rows, columns) < 2:
        raise ConfigError(f"patches of {size} px have no four quadrants in images of {columns + size - 1} px")
    device = encoder.mean_D.device
    pooling_4P = _quadrants(rows, columns).to(device)
    joined_KE = beside_norms(encoder.centroids_KD)
    block = max(1, _rows_at_once(device, len(joined_KE)) // (rows * columns))
    for start in range(0, shape[0], block):
        pixels_BHWC = torch.from_numpy(np.ascontiguousarray(images_NHWC[start : start + block])).to(device)
        white_XD = _whitened(encoder, pixels_BHWC.permute(0, 3, 1, 2).float())
        activations_BPK = triangle(white_XD, joined_KE).view(len(pixels_BHWC), rows * columns, -1)
        pooled_BF = torch.matmul(pooling_4P, activations_BPK).flatten(1)
        features_NF[start : start + block] = pooled_BF.cpu().numpy()
        done = min(start + block, shape[0])
        if done % _SHOWN < block or done == shape[0]:
            progress(done, shape[0], f"features of {done:,} of {shape[0]:,} images")
    return features_NF


def triangle(points_PD: Tensor, joined_KE: Tensor) -> Tensor:
    """max(0, mean(z) - z) float32 (P, K), z the distances to the centroids prepared by ``beside_norms``."""
    # |x|^2 - 2 x.c + |c|^2 as one product, (x, |x|^2, 1) by (-2c, 1, |c|^2), then in place: a patch has K of
    # these and D of anything else, so each pass over them counts.
    norms_P1 = points_PD.square().sum(1, keepdim=True)
    z_PK = torch.cat([points_PD, norms_P1, torch.ones_like(norms_P1)], 1) @ joined_KE.T
    z_PK.clamp_min_(0).sqrt_()  # rounding can leave it just below zero
    return z_PK.sub_(z_PK.mean(1, keepdim=True)).clamp_max_(0).neg_()


def beside_norms(centroids_KD: Tensor) -> Tensor:
    """(-2c, 1, |c|^2): what ``triangle`` multiplies by, (K, D + 2)."""
    norms_K1 = centroids_KD.square().sum(1, keepdim=True)
    return torch.cat([-2 * centroids_KD, torch.ones_like(norms_K1), norms_K1], 1)


def moments(
    features_NF: NDArray[np.float32], block: int = 1024
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each column's mean and sqrt(unbiased variance + 0.01), float32 (F,), streamed with sums in float64."""
    mean_F = np.zeros(features_NF.shape[1])
    for start in range(0, len(features_NF), block):
        mean_F += features_NF[start : start + block].sum(0, dtype=np.float64)
    mean_F /= len(features_NF)
    squares_F = np.zeros_like(mean_F)
    for start in range(0, len(features_NF), block):
        squares_F += np.square(features_NF[start : start + block] - mean_F).sum(0)
    variance_F = squares_F / max(1, len(features_NF) - 1)
    return mean_F.astype(np.float32), np.sqrt(variance_F + FEATURE_VARIANCE).astype(np.float32)


def standardise(
    features_NF: NDArray[np.float32],
    mean_F: NDArray[np.float32],
    scale_F: NDArray[np.float32],
    block: int = 1024,
) -> None:
    """Subtract the means and divide by the scales, in place, by blocks of rows (which may be on disk)."""
    for start in range(0, len(features_NF), block):
        features_NF[start : start + block] = (features_NF[start : start + block] - mean_F) / scale_F


def _whitened(encoder: Encoder, images_BCHW: Tensor) -> Tensor:
    """All patches of all images, row by row, normalised and whitened (B x P, D).

    Whitening could be folded into the centroids, but |x|^2 needs the whitened patch all the same.
    """
    patches_BDP = F.unfold(images_BCHW, encoder.patch_size)
    variance_B1P, mean_B1P = torch.var_mean(patches_BDP, dim=1, keepdim=True)
    normal_BDP = patches_BDP.sub_(mean_B1P).mul_((variance_B1P + CONTRAST).rsqrt_())
    normal_BPD = normal_BDP.transpose(1, 2)
    return (normal_BPD @ encoder.whitening_DD - encoder.mean_D @ encoder.whitening_DD).flatten(0, 1)


def _quadrants(rows: int, columns: int) -> Tensor:
    """Which places (row by row) each quadrant sums: ones and zeros (4, rows x columns)."""
    top = (torch.arange(rows) < (rows + 1) // 2).float()
    left = (torch.arange(columns) < (columns + 1) // 2).float()
    quadrants = [torch.outer(y, x) for x in (left, 1 - left) for y in (top, 1 - top)]
    return torch.stack(quadrants).flatten(1)


def _add_rows(sums_KD: Tensor, index_B: Tensor, rows_BD: Tensor) -> None:
    """Add each row to that of its index, in the same order whenever it is done again."""
    if sums_KD.device.type == "cpu":
        sums_KD.index_add_(0, index_B, rows_BD)
    else:  # there index_add_ takes rows as they come
        members_KB = torch.arange(len(sums_KD), device=index_B.device)[:, None] == index_B
        sums_KD += members_KB.to(rows_BD.dtype) @ rows_BD


def _rows_at_once(device: torch.device, centroids: int) -> int:
    return max(1, (_CACHED if device.type == "cpu" else _ON_DEVICE) // centroids)
