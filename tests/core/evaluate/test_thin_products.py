"""Products with few columns or rows are the plain ones, whatever the layout."""

from __future__ import annotations

import pytest
import torch

from dcgan_core.evaluate.thin_products import combined, decided

LAYOUTS = {
    "contiguous": lambda x_NF: x_NF,
    "rows of a larger array": lambda x_NF: torch.cat([x_NF, x_NF])[7 : 7 + len(x_NF)],
    "columns of a larger array": lambda x_NF: torch.cat([x_NF, x_NF], 1)[:, : x_NF.shape[1]],
    "transposed": lambda x_NF: x_NF.T.contiguous().T,
    "one row": lambda x_NF: x_NF[:1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 10])
def test_products_are_the_plain_ones(layout: str, dtype: torch.dtype, classes: int) -> None:
    torch.manual_seed(0)
    x_NF = LAYOUTS[layout](torch.randn(61, 530, dtype=dtype))
    w_KF = torch.randn(classes, 531, dtype=dtype)[:, :530]
    a_KN = torch.randn(len(x_NF), classes, dtype=dtype).T
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(
        decided(x_NF, w_KF).double(), x_NF.double() @ w_KF.double().T, atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(
        combined(a_KN, x_NF).double(), a_KN.double() @ x_NF.double(), atol=tolerance, rtol=tolerance
    )


def test_without_onednn_torchs_own_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import dcgan_core.evaluate.thin_products as thin

    monkeypatch.setattr(thin, "_has_onednn", lambda: False)
    x_NF, w_KF = torch.randn(5, 7), torch.randn(3, 7)
    assert torch.equal(decided(x_NF, w_KF), x_NF @ w_KF.T)
    assert torch.equal(combined(w_KF @ x_NF.T, x_NF), w_KF @ x_NF.T @ x_NF)
