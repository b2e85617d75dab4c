"""``neurosens-fast layers``: what can be tapped."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from neurosens_fast.models import DigitsCNN

from .conftest import Run


def rows(text: str) -> dict[str, list[str]]:
    """Layer -> the other cells of its row."""
    table = text[: text.index("\nmodel ")].splitlines()[3:]
    return {cells[0]: cells[1:] for cells in map(str.split, table) if cells}


def test_names_types_axes_and_groups(run: Run) -> None:
    result = run("layers", "digits-cnn")
    assert (result.status, result.err) == (0, "")
    found = rows(result.out)
    assert list(found) == [name for name, _ in DigitsCNN().named_modules() if name]
    assert found["conv1"] == ["Conv2d", "1", "convolutions"]
    assert found["bn1"] == ["BatchNorm2d", "1", "norms"]
    assert found["relu1"] == ["ReLU", "-", "activations"]
    assert found["fc4"] == ["Linear", "-1", "linear"]
    assert "groups   activations 4, convolutions 3, linear 2, norms 3, all 14" in result.out
    assert "with --shape SIZES also shapes" in result.out


def test_a_forward_shows_shapes_calls_and_functions(run: Run, own: Path) -> None:
    result = run("layers", f"{own}:build", "--shape", "3x8x8")
    assert (result.status, result.err) == (0, "")
    found = rows(result.out)
    assert list(found) == ["0", "1.relu", "1.conv", "1.relu#2", "1", "2", "3"]
    assert found["1.relu#2"] == ["ReLU", "1", "4x6x6", "activations"]
    assert found["1"] == ["Block", "1", "4x6x6", "blocks"]
    assert found["3"] == ["Linear", "-1", "5", "linear"]
    assert "note     functions cannot be tapped: F.gelu in '1' (Block); write it as a module" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_choice_shows_what_an_audit_would_take(run: Run, own: Path) -> None:
    words = ("layers", f"{own}:build", "--shape", "3,8,8", "--layers")
    assert list(rows(run(*words, "activations,3").out)) == ["1.relu", "1.relu#2", "3"]
    assert list(rows(run(*words, "1.relu#2").out)) == ["1.relu#2"]
    assert list(rows(run(*words, "1.*", "--layers", "3").out)) == ["1.relu", "1.conv", "1.relu#2", "3"]


def test_why_a_layer_cannot_be_tapped(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Head(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.argmax(1)\n"
        "def build():\n"
        "    model = nn.Sequential(nn.Linear(4, 3), Head())\n"
        "    model.idle = nn.ModuleList([nn.ReLU()])\n"
        "    model.forward = lambda x: model[1](model[0](x))\n"
        "    return model\n"
    )
    result = run("layers", f"{tmp_path}/own.py:build", "--shape", "4")
    assert (result.status, result.err) == (0, "")
    words = " ".join(result.out.split())
    assert "note cannot be tapped: 1: puts out torch.int64, which has no sensitivity" in words
    assert "note cannot be tapped: idle, idle.0: did not run as a module" in words


def test_weights_classes_and_normalisation(run: Run, tmp_path: Path) -> None:
    save_file(DigitsCNN(4).state_dict(), tmp_path / "four.safetensors")
    words = ("layers", "digits-cnn", "--shape", "1,8,8", "--normalize", "0.5/0.25")
    result = run(*words, "--weights", tmp_path / "four.safetensors")
    assert rows(result.out)["model.logits"] == ["Linear", "-1", "4", "linear"]
    assert "digits-cnn, weights four.safetensors (sha256 " in result.out
    assert "normalised 0.5/0.25" in " ".join(result.out.split())
    assert rows(run(*words, "--num-classes", "3").out)["model.logits"] == ["Linear", "-1", "3", "linear"]
