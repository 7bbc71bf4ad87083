"""L2SVM ends where LinearSVC ends, by either route, from any kind of features, in little memory."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from dcgan_core.evaluate.svm import L2SVM, gram_matrix, predict_all
from dcgan_core.evaluate.svm_path import takes_gram
from dcgan_core.evaluate.svm_solver import step_lengths

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
ROUTES: tuple[Literal["primal", "gram"], ...] = ("primal", "gram")
CS = (1e-4, 1e-2, 1.0, 10.0)
GAP = 1e-5  # what a fit proves by default


def samples(rows: int, features: int, classes: int, seed: int = 0) -> tuple[Array, Labels]:
    """Overlapping classes; non-negative features with a large common part, as pooled activations have."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    hidden = rng.normal(size=(rows, 12)) + 0.8 * rng.normal(size=(classes, 12))[y]
    x = np.maximum(hidden @ rng.normal(size=(12, features)) / 4 + rng.normal(size=(rows, features)) / 4, 0)
    return x, y


def imbalanced() -> tuple[Array, Labels]:
    x, _ = samples(260, 15, 2)
    return x, (np.arange(260) % 20 == 0).astype(np.int64)


def with_duplicates() -> tuple[Array, Labels]:
    x, y = samples(60, 120, 3)
    return np.concatenate([x, x[:30]]), np.concatenate([y, y[:20], (y[20:30] + 1) % 3])


def with_constants() -> tuple[Array, Labels]:
    x, y = samples(200, 20, 3)
    x[:, 3], x[:, 7] = 5.0, 0.0
    return x, y


def badly_scaled() -> tuple[Array, Labels]:
    x, y = samples(200, 12, 3)
    return x * 10.0 ** np.linspace(-3, 3, 12), y


CASES = {
    "more-rows": samples(320, 30, 4),
    "more-features": samples(80, 150, 3),
    "binary": samples(150, 25, 2),
    "imbalanced": imbalanced(),
    "duplicates": with_duplicates(),
    "constants": with_constants(),
    "badly-scaled": badly_scaled(),
}


def objectives(x: Array, y: Labels, model: Any, c: float) -> tuple[Array, Array]:
    """The obvious version: each class's objective, and the squared norm of its gradient."""
    columns = model.classes_ if len(model.classes_) > 2 else model.classes_[1:]
    values, squares = [], []
    for label, w, b in zip(columns, model.coef_, model.intercept_, strict=True):
        signs = np.where(y == label, 1.0, -1.0)
        room = np.maximum(0, 1 - signs * (x @ w + b))
        values.append((w @ w + b * b) / 2 + c * np.sum(room**2))
        gradient_w = w - 2 * c * x.T @ (signs * room)
        gradient_b = b - 2 * c * np.sum(signs * room)
        squares.append(gradient_w @ gradient_w + gradient_b**2)
    return np.array(values), np.array(squares)


def liblinear(x: Array, y: Labels, c: float) -> tuple[LinearSVC, bool]:
    """(LinearSVC at a tiny tolerance, whether it says it has reached it)."""
    dual: Any = len(x) <= x.shape[1]
    svm = LinearSVC(C=c, dual=dual, tol=1e-8, max_iter=20_000, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svm.fit(x, y)
    return svm, not caught


def assert_at_the_optimum(x: Array, y: Labels, ours: L2SVM, c: float) -> None:
    """Proven by strong convexity, no peer needed: f - min f <= |f'|^2 / 2."""
    values, squares = objectives(x, y, ours, c)
    assert ours.converged_
    assert np.all(squares / 2 <= 1.001 * GAP * values)
    assert ours.objective_ == pytest.approx(values.sum(), rel=1e-9)
    assert ours.gap_ == pytest.approx((squares / 2 / values).max(), rel=1e-3, abs=1e-10)


def assert_as_liblinear(x: Array, y: Labels, ours: L2SVM, c: float) -> None:
    theirs, converged = liblinear(x, y, c)
    mine, other = objectives(x, y, ours, c)[0].sum(), objectives(x, y, theirs, c)[0].sum()
    assert mine <= other * (1 + 1e-4)
    if converged:
        assert mine == pytest.approx(other, rel=1e-4)
        assert np.mean(ours.predict(x) == theirs.predict(x)) >= 0.995


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", CASES)
def test_both_routes_end_where_liblinear_ends(name: str, route: Literal["primal", "gram"]) -> None:
    x, y = CASES[name]
    for c, ours in zip(CS, L2SVM(route=route).fit_path(x, y, CS), strict=True):
        assert_at_the_optimum(x, y, ours, c)
        assert_as_liblinear(x, y, ours, c)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(4, 40),
    features=st.integers(1, 40),
    classes=st.integers(2, 4),
    c=st.sampled_from(CS),
    seed=st.integers(0, 1000),
    route=st.sampled_from(("auto", *ROUTES)),
    intercept=st.booleans(),
)
def test_small_sets_end_where_liblinear_ends(
    rows: int,
    features: int,
    classes: int,
    c: float,
    seed: int,
    route: Literal["auto", "primal", "gram"],
    intercept: bool,
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * rng.choice([0.0, 0.1, 1.0, 10.0], features)
    y = rng.permutation(np.arange(rows) % classes)
    ours = L2SVM(C=c, route=route, fit_intercept=intercept).fit(x, y)
    dual: Any = True
    theirs = LinearSVC(C=c, dual=dual, tol=1e-9, fit_intercept=intercept, max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.set_params(max_iter=5000).fit(x, y)
    other = sum(objective_without(x, y, theirs, c, intercept))
    assert ours.converged_
    assert ours.objective_ == pytest.approx(sum(objective_without(x, y, ours, c, intercept)), rel=1e-9)
    assert ours.objective_ <= other * (1 + 1.001 * GAP)
    # liblinear cannot be below the minimum, and ours proves how far above it is at most.
    assert other >= ours.objective_ * (1 - 1.001 * GAP)


def objective_without(x: Array, y: Labels, model: Any, c: float, intercept: bool) -> list[float]:
    """As ``objectives``, with an intercept of LinearSVC (a number without one) that may be missing."""
    columns = model.classes_ if len(model.classes_) > 2 else model.classes_[1:]
    biases = model.intercept_ if intercept else np.zeros(len(columns))
    return [
        float((w @ w + b * b) / 2 + c * np.sum(np.maximum(0, 1 - np.where(y == k, 1, -1) * (x @ w + b)) ** 2))
        for k, w, b in zip(columns, model.coef_, biases, strict=True)
    ]


def test_it_is_an_estimator_of_scikit_learn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that set few iterations, and those that are skipped
        check_estimator(L2SVM())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("route", ROUTES)
def test_memory_mapped_features_give_what_the_same_numbers_give_in_float64(
    tmp_path: Path, dtype: type[np.floating], route: Literal["primal", "gram"]
) -> None:
    x, y = samples(300, 60, 3)
    mapped = np.memmap(tmp_path / "x", dtype, "w+", shape=x.shape)
    mapped[:] = x
    mapped.flush()
    read_only = np.memmap(tmp_path / "x", dtype, "r", shape=x.shape)
    plain = L2SVM(C=0.1, route=route).fit(read_only.astype(np.float64), y)
    blocked = L2SVM(C=0.1, route=route, precision="float32", block_bytes=7000).fit(read_only, y)
    assert blocked.objective_ == pytest.approx(plain.objective_, rel=2 * GAP)
    assert_at_the_optimum(read_only.astype(np.float64), y, blocked, 0.1)
    np.testing.assert_allclose(
        blocked.decision_function(read_only),
        plain.decision_function(read_only.astype(np.float64)),
        atol=0.01,
    )


def test_float32_products_reach_the_same_gradient_as_float64() -> None:
    x, y = samples(400, 300, 3)
    x = (100 + x).astype(np.float32).astype(np.float64)  # a large common part, the worst for float32
    for c in (1e-3, 1.0):
        quick = L2SVM(C=c, route="primal", precision="float32").fit(x.astype(np.float32), y)
        assert_at_the_optimum(x, y, quick, c)


_MEMORY = """
import resource, sys, warnings
import numpy as np
from dcgan_core.evaluate.svm import L2SVM
x = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(x)) % 3
warnings.simplefilter("ignore")
svm = L2SVM(route="primal", precision="float32", max_iter=2, tol=1e-12, block_bytes=2**22)
svm.fit(x[:2000], y[:2000]).predict(x[:2000])  # threads and workspaces are there from here on
used = int(open("/proc/self/status").read().partition("VmData:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + x.nbytes // 2, used + x.nbytes // 2))
svm.fit(x, y).predict(x)
try:
    np.array(x)
except MemoryError:
    print("fitted where a copy does not fit")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds private memory on Linux")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_are_never_copied_whole(tmp_path: Path, dtype: type[np.floating]) -> None:
    """Fit and predict need less private memory than half of the mapped features."""
    rows, features = 40_000, 3200 // np.dtype(dtype).itemsize
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.dtype(dtype), (rows, features))
    rng = np.random.default_rng(0)
    for start in range(0, rows, 4000):
        mapped[start : start + 4000] = rng.random((4000, features), np.float32)
    mapped.flush()
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.stdout == "fitted where a copy does not fit\n", done.stderr


@pytest.mark.parametrize("tol", [0.5, 1e-2])
@pytest.mark.parametrize("steps", [1, 100])
def test_what_is_said_of_the_end_is_computed_in_float64(
    tol: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a fit ends while steps still start from quick gradients."""
    from dcgan_core.evaluate import svm_spaces

    exact = svm_spaces.FeatureSpace.pressed

    def blurred(self: Any, w_KD: Any, signs_NK: Any, **how: bool) -> Any:
        z_NK, pressed_KD = exact(self, w_KD, signs_NK, **how)
        return z_NK, pressed_KD if how["exact"] else 0.97 * pressed_KD

    monkeypatch.setattr(svm_spaces.FeatureSpace, "pressed", blurred)
    x, y = samples(300, 80, 3)
    model = L2SVM(C=0.01, tol=tol, gap=1.0, max_iter=steps, route="primal", precision="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    values, squares = objectives(x, y, model, 0.01)
    assert model.objective_ == pytest.approx(values.sum(), rel=1e-9)
    assert model.gap_ == pytest.approx((squares / 2 / values).max(), rel=1e-6)


@pytest.mark.parametrize("mean", [300.0, 10_000.0])
def test_a_common_part_that_drowns_float32_ends_in_few_steps(mean: float) -> None:
    """Sums over two equal classes all but cancel, so that rounding outweighs the gradient at zero."""
    rng = np.random.default_rng(0)
    y = np.arange(3000) % 2
    x = (mean + rng.normal(size=(3000, 40)) + 0.1 * y[:, None]).astype(np.float32)
    model = L2SVM(C=1e-3, route="primal", precision="float32").fit(x, y)
    assert model.n_iter_ < 30
    assert_at_the_optimum(x.astype(np.float64), y, model, 1e-3)


def test_numbers_that_overflow_float32_leave_a_model_that_is_finite_and_says_it_is_not_there() -> None:
    x = 1e15 * np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)
    model = L2SVM(route="primal", precision="float32", max_iter=5)
    with pytest.warns(ConvergenceWarning):
        model.fit(x, np.arange(100) % 2)
    assert np.isfinite(model.coef_).all()


def test_a_path_gives_what_single_fits_give_in_the_order_asked_for() -> None:
    x, y = samples(150, 30, 3)
    cs = (1.0, 1e-3, 0.1)
    for route in ROUTES:
        svm = L2SVM(route=route)
        path = svm.fit_path(x, y, cs)
        assert [model.C for model in path] == list(cs)
        assert not hasattr(svm, "coef_")
        for model in path:
            alone = L2SVM(C=model.C, route=route).fit(x, y)
            assert model.objective_ == pytest.approx(alone.objective_, rel=2 * GAP)
            assert model.n_features_in_ == 30


def test_a_path_is_shorter_than_fits_from_zero() -> None:
    x, y = samples(300, 40, 3)
    cs = [1e-3 * 1.5**n for n in range(6)]
    warm = sum(model.n_iter_ for model in L2SVM(route="primal").fit_path(x, y, cs))
    assert warm < sum(L2SVM(C=c, route="primal").fit(x, y).n_iter_ for c in cs)


@pytest.mark.parametrize("route", ["primal", "gram"])
def test_every_pass_is_reported_and_what_is_behind_only_grows(route: Literal["primal", "gram"]) -> None:
    x, y = samples(200, 60, 3) if route == "primal" else samples(60, 200, 3)
    seen: list[tuple[float, str]] = []
    svm = L2SVM(route=route)
    paths = list(
        svm.iter_path(x, y, [1e-3, 1.0], progress=lambda done, total, note: seen.append((done / total, note)))
    )
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len(set(shares)) > 4
    assert seen[0][1] == "C = 0.001, pass 1"
    of_last = [note for _, note in seen if note.startswith("C = 1,")]
    assert len(of_last) > paths[-1].n_iter_


def test_a_warm_start_at_the_optimum_takes_no_step() -> None:
    x, y = samples(300, 40, 3)
    svm = L2SVM(C=0.1, route="primal", warm_start=True).fit(x, y)
    before, steps = svm.coef_.copy(), svm.n_iter_
    assert steps > 1
    svm.fit(x, y)
    assert svm.n_iter_ == 1
    np.testing.assert_array_equal(svm.coef_, before)


def test_subsets_share_the_inner_products_of_a_pool() -> None:
    x, y = samples(120, 200, 3)
    pool = gram_matrix(x.astype(np.float32), block_bytes=5000)
    np.testing.assert_allclose(
        pool, x.astype(np.float32).astype(np.float64) @ x.astype(np.float32).T, rtol=1e-6
    )
    np.testing.assert_array_equal(pool, pool.T)
    rng = np.random.default_rng(0)
    for _ in range(3):
        rows = rng.permutation(120)[:50]
        given_gram = L2SVM(C=0.1).fit(x[rows], y[rows], gram=pool[np.ix_(rows, rows)])
        assert_at_the_optimum(x[rows], y[rows], given_gram, 0.1)
        plain = L2SVM(C=0.1, route="primal").fit(x[rows], y[rows])
        assert given_gram.objective_ == pytest.approx(plain.objective_, rel=2 * GAP)


def test_a_wrong_gram_matrix_costs_steps_and_not_the_optimum() -> None:
    x, y = samples(60, 100, 3)
    wrong = gram_matrix(x) + 0.5 * np.eye(60)
    assert_at_the_optimum(x, y, L2SVM(C=1.0).fit(x, y, gram=wrong), 1.0)


def test_the_gram_route_is_the_same_with_and_without_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcgan_core.evaluate.svm_spaces import GramSpace

    x, y = CASES["duplicates"]
    direct = L2SVM(C=0.1, route="gram").fit(x, y)
    monkeypatch.setattr(GramSpace, "DIRECT", -1)
    by_steps = L2SVM(C=0.1, route="gram").fit(x, y)
    assert_at_the_optimum(x, y, by_steps, 0.1)
    assert by_steps.objective_ == pytest.approx(direct.objective_, rel=2 * GAP)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("c", CS)
def test_the_gram_route_with_float32_products_ends_at_the_optimum(
    name: str, c: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcgan_core.evaluate.svm_spaces import GramSpace

    monkeypatch.setattr(GramSpace, "DIRECT", -1)
    x, y = CASES[name]
    assert_at_the_optimum(x, y, L2SVM(C=c, route="gram", precision="float32").fit(x, y), c)


def test_the_route_follows_from_the_shape() -> None:
    assert takes_gram("auto", 1000, 7168, values=1, known=False)
    assert not takes_gram("auto", 20_000, 28_672, values=7, known=False)  # 3 GiB
    assert not takes_gram("auto", 50_000, 28_672, values=1, known=False)
    assert not takes_gram("auto", 10_000, 7168, values=1, known=False)
    assert not takes_gram("auto", 10_000, 28_672, values=1, known=False)
    assert takes_gram("auto", 10_000, 28_672, values=7, known=False)
    assert takes_gram("auto", 10_000, 100, values=1, known=True)
    assert takes_gram("gram", 10_000, 100, values=1, known=False)


def test_where_steps_run_out_it_says_so_and_how_far_the_optimum_can_be() -> None:
    x, y = samples(300, 40, 3)
    best = L2SVM(C=1.0, route="primal").fit(x, y).objective_
    for most in (1, 2, 3):
        with pytest.warns(ConvergenceWarning, match="short of its optimum"):
            svm = L2SVM(C=1.0, route="primal", max_iter=most).fit(x, y)
        assert not svm.converged_
        assert svm.n_iter_ == most
        assert svm.objective_ - best <= svm.gap_ * svm.objective_
        assert svm.gap_ > GAP or svm.gradient_norm_ > 1e-4


def test_a_line_search_finds_the_least_of_a_scan() -> None:
    rng = np.random.default_rng(0)
    z, moved = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) * 10.0 ** np.arange(-2, 3)
    signs = rng.choice([-1.0, 1.0], (40, 5))
    squares, products = rng.random(5) + 0.1, -rng.random(5)
    products[3] = 1e6  # leads up
    at, step, of = (torch.from_numpy(each) for each in (z, moved, signs))
    found = step_lengths(at, step, of, 0.7, torch.from_numpy(squares), torch.from_numpy(products)).numpy()

    def value(t: Array) -> Array:
        room = np.maximum(0, 1 - signs * (z + t * moved))
        return t**2 * squares / 2 + t * products + 0.7 * (room**2).sum(0)

    assert found[3] == 0
    scan = np.stack([value(np.full(5, t)) for t in np.concatenate([[0], np.logspace(-5, 3, 20_000)])])
    assert np.all(value(found) <= scan.min(0) + 1e-6 * np.abs(scan.min(0)))


def test_models_predict_in_one_pass_as_they_do_alone() -> None:
    x, y = samples(120, 30, 3)
    models = [*L2SVM().fit_path(x, y, (1e-3, 1.0)), L2SVM().fit(x, np.where(y == 2, "one", "other"))]
    for together, model in zip(predict_all(models, x), models, strict=True):
        np.testing.assert_array_equal(together, model.predict(x))


def global_state() -> Array:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return state["state"]["key"]


def test_the_same_input_gives_the_same_output_and_leaves_global_generators_alone() -> None:
    x, y = samples(300, 40, 3)
    numpy_state, torch_state = global_state(), torch.get_rng_state()
    first, second = (L2SVM(route="primal", precision="float32").fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(global_state(), numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_found_in_any_block(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_core.evaluate.svm._CHECKED", 200)
    x, y = samples(100, 20, 2)
    svm = L2SVM().fit(x, y)
    x[77, 3] = bad
    for call in (lambda: L2SVM().fit(x, y), lambda: svm.predict(x)):
        with pytest.raises(ValueError, match=r"Input X contains"):
            call()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"C": 0.0}, "C must be a number above 0"),
        ({"tol": -1.0}, "tol must be"),
        ({"route": "dual"}, "route must be one of"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any], message: str) -> None:
    x, y = samples(20, 5, 2)
    with pytest.raises(ValueError, match=message):
        L2SVM(**setting).fit(x, y)


def test_inner_products_of_other_samples_are_refused() -> None:
    x, y = samples(20, 30, 2)
    with pytest.raises(ValueError, match=r"gram is X X\^T of the 20 samples"):
        L2SVM().fit(x, y, gram=np.eye(19))
    with pytest.raises(ValueError, match="route 'primal'"):
        L2SVM(route="primal").fit(x, y, gram=np.eye(20))
