"""A forecast needs only a saved folder; stock transformers loads a model that it knows and refuses every other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_kit import COLUMNS, H, L, save_small, small_facts, small_model

from model.attention import BACKENDS
from model.facts import FACTS, read_facts
from model.forecaster import Forecaster
from model.patchtst import load_model, save_model

STOCK = """
import sys
import torch
from transformers import PatchTSTForPrediction
assert not {name for name in sys.modules if name.split(".")[0] in ("model", "tune", "data_pipeline")}
past = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = PatchTSTForPrediction.from_pretrained(folder, attn_implementation="eager")
    assert not model.training
    with torch.no_grad():
        torch.save(model(past_values=past).prediction_outputs, f"{folder}.pt")
"""


REFUSED = """
import contextlib, json, sys
from transformers import PatchTSTForPrediction
found = []
with contextlib.redirect_stdout(sys.stderr):
    for folder in sys.argv[2:]:
        try:
            PatchTSTForPrediction.from_pretrained(folder, attn_implementation="eager")
        except (RuntimeError, ValueError) as error:
            found.append(str(error))
print(json.dumps(found))
"""


def _stock(*folders: Path, past: torch.Tensor, script: str = STOCK) -> subprocess.CompletedProcess[str]:
    """Stock transformers in a process of its own that finds nothing of ours; its forecasts as FOLDER.pt."""
    elsewhere = folders[0].parent / "elsewhere"
    elsewhere.mkdir()
    torch.save(past, elsewhere / "past.pt")
    command = [sys.executable, "-I", "-c", script, elsewhere / "past.pt", *folders]
    return subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", name="stock_forecasts")
def stock_forecasts_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved from each backend, and what stock transformers forecasts with it, all in one process."""
    root = tmp_path_factory.mktemp("stock")
    save_model(small_model(**OFFICIAL), root / "official")
    done = _stock(root / "official", *(save_small(root / attention, attention) for attention in BACKENDS), past=_past())
    assert done.returncode == 0, done.stderr
    return root


def _past() -> torch.Tensor:
    return torch.randn(3, L, len(COLUMNS), generator=torch.Generator().manual_seed(1))


# Of the official model what stock transformers knows, too.
OFFICIAL = {"init": "torch", "positions": "learned", "dropout": 0.2, "attention_output_dropout": 0.2}


@pytest.mark.parametrize("attention", [*BACKENDS, "official"])
def test_stock_transformers_loads_an_unpruned_model_whatever_trained_it_and_forecasts_bit_by_bit_the_same(
    attention: str, stock_forecasts: Path
) -> None:
    with torch.no_grad():
        ours = load_model(stock_forecasts / attention)(past_values=_past()).prediction_outputs
    assert torch.equal(torch.load(stock_forecasts / f"{attention}.pt"), ours)


def test_stock_transformers_refuses_what_it_would_compute_otherwise_and_names_the_reason(tmp_path: Path) -> None:
    folders = [save_small(tmp_path / "pruned", pruned=True), tmp_path / "padded", tmp_path / "residual"]
    save_model(small_model(end_padding=True), folders[1])
    save_model(small_model(residual_attention=True), folders[2])
    done = _stock(*folders, past=torch.zeros(1, L, len(COLUMNS)), script=REFUSED)
    assert done.returncode == 0, done.stderr
    *mismatched, residual = json.loads(done.stdout)
    assert ["mismatched_sizes" in error for error in mismatched] == [True, True]
    for name, shape in (("layers.0.self_attn.q_proj.weight", [8, 16]), ("position_enc", [5, 16])):
        assert name in done.stderr and f"torch.Size({shape})" in done.stderr
    assert "with residual attention (load it with MLflow" in residual


@pytest.mark.parametrize("attention", BACKENDS)
def test_no_backend_leaves_its_name_in_the_saved_config(attention: str, tmp_path: Path) -> None:
    text = (save_small(tmp_path / "saved", attention) / "config.json").read_text()
    assert BACKENDS[attention].register() not in json.loads(text).values()
    assert "attn_implementation" not in text


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_folder_and_files_get_the_modes_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = save_small(tmp_path / "saved")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666 & ~umask}
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", FACTS, "model.safetensors"]


@pytest.mark.parametrize("pruned", [False, True], ids=["all heads", "pruned"])
def test_a_forecast_is_the_models_on_standardised_values_back_in_the_units_of_the_source(
    pruned: bool, tmp_path: Path
) -> None:
    folder = save_small(tmp_path / "saved", pruned=pruned)
    facts = read_facts(folder)
    values = np.random.default_rng(0).normal(facts.mean, facts.std, (L + 7, len(COLUMNS)))
    forecast = Forecaster(folder).forecast(values)
    assert forecast.shape == (H, len(COLUMNS)) and forecast.dtype == np.float64
    scaled = (values[-L:].astype(np.float32) - np.array(facts.mean)) / np.array(facts.std)
    with torch.no_grad():
        past = torch.from_numpy(scaled.astype(np.float32))[None]
        expected = small_model(pruned=pruned).eval()(past_values=past).prediction_outputs[0].double().numpy()
    np.testing.assert_array_equal(forecast, expected * np.array(facts.std) + np.array(facts.mean))


def test_the_facts_read_back_bit_by_bit(tmp_path: Path) -> None:
    facts = small_facts(mean=(0.1 + 0.2, -1e-300), std=(1 / 3, 1e300))
    (tmp_path / FACTS).write_text(facts.as_json())
    assert read_facts(tmp_path) == facts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros((L - 1, 2)), f"needs {L} rows or more of 2 columns"),
        (np.zeros((L, 3)), "2 columns"),
        (np.zeros(L), "2 columns"),
        (np.full((L, 2), np.nan), "finite"),
        (np.full((L, 2), 1e39), "finite 32-bit"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_values_that_cannot_be_forecast_from_are_a_value_error(
    values: np.ndarray, expected: str, tmp_path: Path
) -> None:
    forecaster = Forecaster(save_small(tmp_path / "saved"))
    with pytest.raises(ValueError, match=expected):
        forecaster.forecast(values)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "other"}, "not of the format"),
        ({"format_version": 2}, "has format version 2, this program reads 1"),
        ({"mean": [1.0]}, "mean must hold one finite number for each of the 2 columns"),
        ({"mean": [1.0, None]}, "mean must hold"),
        ({"std": [1.0, 0.0]}, "std must be positive"),
        ({"std": 3}, "lacks a field that a forecast needs"),
        ({"step_minutes": 0}, "step_minutes must be"),
        ({"context_length": "48"}, "context_length must be"),
        ({"prediction_length": 0}, "prediction_length must be"),
        ({"columns": []}, "columns must be names"),
        ({"columns": ["a"], "mean": [0.0], "std": [1.0]}, "of different models"),
        ({"context_length": 60}, "of different models"),
    ],
    ids=str,
)
def test_facts_that_cannot_be_used_are_told_in_one_line(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = save_small(tmp_path / "saved")
    content = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(content | changes))
    with pytest.raises(ValueError, match=expected) as caught:
        Forecaster(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.json", None), ("model.safetensors", None), (FACTS, None), ("config.json", "{"), (FACTS, "{"),
     ("model.safetensors", "weights")],
)  # fmt: skip
def test_a_folder_that_holds_no_whole_model_is_told_in_one_line(file: str, text: str | None, tmp_path: Path) -> None:
    folder = save_small(tmp_path / "saved")
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(ValueError, match="fetch it again|fetch the model again|give the folder") as caught:
        Forecaster(folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_beside_the_weights_is_never_opened(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "saved")
    before = Forecaster(folder).forecast(np.zeros((L, 2)))
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    np.testing.assert_array_equal(Forecaster(folder).forecast(np.zeros((L, 2))), before)


def test_a_model_is_never_saved_over_another(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "saved")
    with pytest.raises(OSError):
        save_model(small_model(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
