"""The rooms of the house: who may import what (docs/architecture.md), read from the source."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dcgan_core

ROOT = Path(dcgan_core.__file__).parents[1]
STAGE_FOLDERS = {"scrape", "crop", "dedup", "shard", "train", "evaluate", "analyze", "report"}
ORCHESTRATION = {"prefect", "ray", "mlflow", "tasks", "flows"}

MAY_READ_ANOTHER_STAGE = {
    ("train", "shard"),
    ("analyze", "shard"),
    ("evaluate", "shard"),
    ("evaluate", "scrape"),
    ("report", "dedup"),
    ("report", "evaluate"),
}
"""Folders that use another stage's code: three read images with the shards' own reader and order, labelled
sets lie where `scrape` finds torchvision's sets and tars, the gallery measures pairs as `dedup` does, and the
report puts figures into the words that `evaluate` has for them."""

MATHEMATICS = (
    "analyze/latent.py",
    "analyze/neighbours.py",
    "crop/boxes.py",
    "dedup/autoencoder.py",
    "dedup/codes.py",
    "dedup/groups.py",
    "dedup/licences.py",
    "dedup/neighbours.py",
    "dedup/scoring.py",
    "dedup/similarity.py",
    "dedup/variants.py",
    "evaluate/classifier.py",
    "evaluate/distances.py",
    "evaluate/diversity.py",
    "evaluate/draws.py",
    "evaluate/enough.py",
    "evaluate/features.py",
    "evaluate/frechet.py",
    "evaluate/inception_score.py",
    "evaluate/kernel.py",
    "evaluate/kmeans.py",
    "evaluate/manifold.py",
    "evaluate/memorisation.py",
    "evaluate/moments.py",
    "evaluate/nearest.py",
    "evaluate/neighbours.py",
    "evaluate/protocols.py",
    "evaluate/quality.py",
    "evaluate/contest.py",
    "evaluate/results.py",
    "evaluate/published.py",
    "evaluate/paper_tables.py",
    "evaluate/rows.py",
    "evaluate/supervised.py",
    "evaluate/svm.py",
    "evaluate/svm_path.py",
    "evaluate/svm_solver.py",
    "evaluate/svm_spaces.py",
    "evaluate/thin_products.py",
    "models/dcgan.py",
    "models/inputs.py",
    "models/norms.py",
    "models/specs.py",
    "progress.py",
    "shard/order.py",
    "train/augment.py",
    "train/engine.py",
    "train/health.py",
    "train/losses.py",
    "train/noise.py",
    "train/quality.py",
    "train/schedule.py",
    "train/step.py",
)
"""Pure core: no files, no environment, no clock, no logging, no global randomness."""

OUTSIDE_WORLD = {
    "aiohttp",
    "asyncio",
    "datetime",
    "fsspec",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "psutil",
    "pyarrow",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}

OF_IMAGES_AND_MODELS = {"cv2", "PIL", "skimage", "sklearn", "scipy", "pandas", "torchvision", "webdataset"}

DISTRIBUTION_OF = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pydantic_settings": "pydantic-settings",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
    # Parts of the interface of a declared package, installed with it.
    "botocore": "s3fs",
    "markupsafe": "jinja2",
    "yarl": "aiohttp",
}


def files_of(*packages: str) -> list[Path]:
    found = sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))
    assert found
    return found


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) of every import; names of packages in full."""
    tree = ast.parse(path.read_text("utf-8"))
    on_import = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}: relative import"
            module = node.module or ""
            is_package = (ROOT / module.replace(".", "/")).is_dir()
            names = [f"{module}.{alias.name}" for alias in node.names] if is_package else [module]
        else:
            continue
        found += [(name, id(node) in on_import) for name in names]
    return found


def modules(path: Path) -> set[str]:
    return {name for name, _ in imports_of(path)}


def top(module: str) -> str:
    return module.partition(".")[0]


def is_standard(module: str) -> bool:
    return top(module) in sys.stdlib_module_names


@pytest.mark.parametrize("path", files_of("flows"), ids=short)
def test_flows_only_call(path: Path) -> None:
    core = {"dcgan_core.config", "dcgan_core.pipeline", "dcgan_core.artifacts", "dcgan_core.place"}
    for module in modules(path):
        allowed = top(module) in ("tasks", "flows", "prefect", "pydantic") or is_standard(module)
        assert allowed or module in core, f"{short(path)} imports {module}"


@pytest.mark.parametrize("path", files_of("tasks"), ids=short)
def test_tasks_decide_nothing_about_images_or_models(path: Path) -> None:
    for module in modules(path):
        assert top(module) not in OF_IMAGES_AND_MODELS, f"{short(path)} imports {module}"
        assert top(module) != "flows", f"{short(path)} imports {module}"


@pytest.mark.parametrize("path", files_of("dcgan_core"), ids=short)
def test_the_core_knows_nothing_of_prefect_and_ray(path: Path) -> None:
    found = [each for each in imports_of(path) if top(each[0]) in ORCHESTRATION]
    # The command line takes Ray's backend when it is asked for, and only then.
    expected = [("tasks.backends", False)] if short(path) == "dcgan_core/cli.py" else []
    assert found == expected


@pytest.mark.parametrize("path", files_of("dcgan_core"), ids=short)
def test_the_command_line_is_imported_by_nothing_of_the_core(path: Path) -> None:
    if path.name != "__main__.py":
        assert "dcgan_core.cli" not in modules(path)


def test_stages_stay_in_their_folders() -> None:
    crossings = set()
    for path in files_of("dcgan_core"):
        own = path.relative_to(ROOT / "dcgan_core").parts[0]
        if own in STAGE_FOLDERS:
            others = {name.split(".")[1] for name in modules(path) if name.startswith("dcgan_core.")}
            crossings |= {(own, other) for other in others & STAGE_FOLDERS - {own}}
    assert crossings == MAY_READ_ANOTHER_STAGE


def test_what_stages_share_does_not_know_them() -> None:
    know_all = {"pipeline.py", "cli.py"}
    for path in sorted((ROOT / "dcgan_core").glob("*.py")) + files_of("dcgan_core/models"):
        if path.name not in know_all:
            for module in modules(path):
                parts = module.split(".")
                is_stage = parts[0] == "dcgan_core" and len(parts) > 1 and parts[1] in STAGE_FOLDERS
                assert not is_stage, f"{short(path)} imports {module}"


@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematics_touches_nothing_but_its_arguments(name: str) -> None:
    path = ROOT / "dcgan_core" / name
    assert {top(module) for module in modules(path)} & OUTSIDE_WORLD == set()
    assert global_randomness(path) == []


def test_only_the_place_reads_the_environment() -> None:
    readers = [
        short(path)
        for path in files_of("dcgan_core")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    ]
    assert set(readers) <= {"dcgan_core/place.py"}


@pytest.mark.parametrize("path", files_of("dcgan_core", "tasks", "flows"), ids=short)
def test_randomness_is_never_global(path: Path) -> None:
    assert global_randomness(path) == []


def test_the_core_needs_only_what_it_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(each for name in ("demo", "s3", "lsun", "export", "quality") for each in extras[name]),
    ]
    declared = {name.split(">")[0].split("=")[0].split("<")[0].split("[")[0].lower() for name in wanted}
    for path in files_of("dcgan_core"):
        for module in modules(path):
            if is_standard(module) or top(module) in {"dcgan_core", *ORCHESTRATION}:
                continue
            distribution = DISTRIBUTION_OF.get(top(module), top(module)).lower()
            assert distribution in declared, f"{short(path)} imports {module}, which pyproject.toml lacks"


def test_only_the_object_store_needs_its_client_and_is_imported_late() -> None:
    of_client = {"s3fs", "botocore", "aiobotocore", "boto3"}
    using = {
        short(path) for path in files_of("dcgan_core") if {top(name) for name in modules(path)} & of_client
    }
    assert using == {"dcgan_core/object_store.py"}
    for path in files_of("dcgan_core", "tasks", "flows"):
        assert ("dcgan_core.object_store", True) not in imports_of(path)


def test_flows_are_imported_without_torch_and_ray() -> None:
    flows = importlib.import_module("flows")
    names = [f"flows.{module.name}" for module in pkgutil.iter_modules(flows.__path__)]
    assert {f"flows.{name}" for name in (*STAGE_FOLDERS, "dcgan")} <= set(names)
    assert heavy_modules(names) == []


def test_the_command_line_is_imported_without_what_only_work_needs() -> None:
    assert heavy_modules(["dcgan_core.cli"], "prefect") == []


@pytest.mark.parametrize("words", [("--help",), ("list",)], ids=" ".join)
def test_commands_that_do_no_work_load_no_library_of_the_work(words: tuple[str, ...], tmp_path: Path) -> None:
    """``python -m benchmarks.startup`` measures what that saves."""
    unwanted = ("torch", "pandas", "pyarrow", "matplotlib", "cv2", "scipy", "sklearn", "aiohttp", "numpy")
    code = "import json, sys\nfrom dcgan_core.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print(json.dumps(sorted(name for name in sys.modules if '_' not in name)))"
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DCGAN_ROOT": str(tmp_path)},
    )
    assert ended.returncode == 0, ended.stderr
    loaded = json.loads(ended.stdout.splitlines()[-1])
    assert "typer" in loaded
    assert [name for name in unwanted if name in loaded] == []


def test_parquet_is_read_in_one_thread() -> None:
    """Arrow's threads can outlive the interpreter, which is then aborted (``dcgan_core/tables.py``)."""
    for path in files_of("dcgan_core", "tasks"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            call, name = ast.unparse(node), node.func.attr
            assert name != "read_table", f"{short(path)}: {call}"
            if name in ("iter_batches", "read_row_group") or (name == "read" and "ParquetFile" in call):
                assert "use_threads=False" in call, f"{short(path)}: {call}"


def test_every_module_says_in_one_sentence_what_it_is() -> None:
    for path in files_of("dcgan_core", "tasks", "flows"):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert docstring.partition("\n")[0].endswith("."), f"{short(path)}: {docstring!r}"


def global_randomness(path: Path) -> list[str]:
    """Calls that draw from, or seed, a generator that everybody shares."""
    own_state = {"Generator", "Philox", "PCG64", "default_rng", "SeedSequence", "Random", "SystemRandom"}
    shared = ("np.random.", "numpy.random.") + (("random.",) if "random" in modules(path) else ())
    of_torch = {f"torch.{name}" for name in ("manual_seed", "seed", "rand", "randn", "randint", "randperm")}
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            by_numpy = name.startswith(shared) and not own_state & set(re.findall(r"\w+", name))
            by_torch = name in of_torch and "generator" not in {keyword.arg for keyword in node.keywords}
            found |= {name} if by_numpy or by_torch else set()
    return sorted(found)


def heavy_modules(names: list[str], *more: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after importing some modules."""
    heavy = ["torch", "torchvision", "ray", "cv2", "sklearn", "matplotlib", *more]
    code = "import importlib, json, sys; names, heavy = json.loads(sys.argv[1]); "
    code += "[importlib.import_module(name) for name in names]; "
    code += "print(json.dumps([name for name in heavy if name in sys.modules]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps([names, heavy])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
