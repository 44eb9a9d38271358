"""Checkpoints: a whole one at every moment, damage found, nothing but tensors and JSON types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medseg3d.checks import ModelError
from medseg3d.training.checkpoint import load_state, remove_leftovers, save_state, save_weights

STATE = {"step": 3, "best": float("-inf"), "rows": [{"epoch": 1, "loss": 0.5}], "network": {"w": torch.arange(1000.0)}}


def test_state_comes_back_in_a_fresh_process_with_weights_only(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    code = (
        "import sys, torch; s = torch.load(sys.argv[1], weights_only=True); "
        "print(s['step'], s['rows'][0]['loss'], s['network']['w'].sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "last.pt")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "0.5", "499500.0"]


def test_the_state_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, {**STATE, "step": step})
    assert load_state(tmp_path)["step"] == 3
    assert torch.load(tmp_path / "prev.pt", weights_only=True)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "last.pt", "prev.pt"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_state_is_found_and_the_one_before_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_state(tmp_path, {**STATE, "step": 1})
    save_state(tmp_path, {**STATE, "step": 2})
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[content.find(torch.tensor(500.0).numpy().tobytes())] ^= 1
    last.unlink()
    last.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "flipped": content}[damage])
    if damage == "flipped":
        assert torch.load(last, weights_only=True)["step"] == 2, "torch alone does not see it"
    assert load_state(tmp_path)["step"] == 1
    assert "damaged" in caplog.text
    assert "prev.pt instead" in caplog.text
    (tmp_path / "prev.pt").unlink()
    with pytest.raises(ModelError, match=r"last\.pt is damaged"):
        load_state(tmp_path)


def test_nothing_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing was saved"):
        load_state(tmp_path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"step": Path("x")}, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="damaged"):
        load_state(tmp_path)


def test_both_weight_files_hold_the_same(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4).T, "n": torch.tensor(5)}
    save_weights(tmp_path, weights)
    plain, safe = torch.load(tmp_path / "model.pt", weights_only=True), load_file(tmp_path / "model.safetensors")
    assert plain.keys() == safe.keys() == weights.keys()
    assert all(torch.equal(plain[k], weights[k]) and torch.equal(safe[k], weights[k]) for k in weights)


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path: Path) -> None:
    save_weights(tmp_path, {"a": torch.ones(2)})
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(ModelError, match="not finite"):
        save_weights(tmp_path, {"a": torch.tensor([1.0, float("nan")])})
    assert (tmp_path / "model.pt").read_bytes() == before


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    (tmp_path / ".tmp-1-ab.pt").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "last.pt"]
