"""Anything typed wrong: one line, exit status 2, nothing printed, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run

AUDIT = "audit --model digits-cnn --data digits --out <tmp>/out"
MASK = "mask <report> --model digits-cnn --data digits --out <tmp>/out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("adit", "No such command 'adit'"),
        ("audit", "Missing option '--model'. (try: neurosens-fast audit --help)"),
        ("audit --model digits-cnn --out <tmp>/out", "Missing option '--data'"),
        ("audit --model digits-cnn --data digits", "Missing option '--out'"),
        (f"{AUDIT} --frobnicate", "No such option: --frobnicate"),
        (f"{AUDIT} --epsilon 1", "No such option: --epsilon (Possible options: --eps"),
        (f"{AUDIT} extra", "extra"),
        (f"{AUDIT} --model digit-cnn", "did you mean digits-cnn"),
        (f"{AUDIT} --model <tmp>/none.py:build", "there is no file <tmp>/none.py"),
        (f"{AUDIT} --model torchvision:resnet81", "torchvision has no classifier 'resnet81'; did you mean resnet18"),
        (f"{AUDIT} --weights <tmp>/fill", "there is no file of weights <tmp>/fill; did you mean file?"),
        (f"{AUDIT} --weights <tmp>/file", "weights <tmp>/file are truncated, damaged, or no weights"),
        (f"{AUDIT} --num-classes 0", "--num-classes"),
        (f"{AUDIT} --normalize imagnet", "imagnet"),
        (f"{AUDIT} --data digit", "did you mean digits?"),
        (f"{AUDIT} --data mnist:<tmp>", "MNIST is not in <tmp>/MNIST/raw"),
        (f"{AUDIT} --data imagefolder:<tmp>/none", "there is no folder <tmp>/none"),
        (f"{AUDIT} --model mnist-cnn", "samples of digits, shape [1, 8, 8], do not fit the model: mat1 and mat2"),
        (f"{AUDIT} --split tset", "'tset' is not one of 'test', 'train'"),
        (f"{AUDIT} --max-samples 0", "--max-samples"),
        (f"{AUDIT} --batch-size none", "--batch-size"),
        (f"{AUDIT} --attack pdg", "unknown attack 'pdg'; did you mean pgd?"),
        (f"{AUDIT} --attack <tmp>/none.py:attack", "there is no file <tmp>/none.py"),
        (f"{AUDIT} --attack fgsm --steps 3", "--steps says nothing to --attack fgsm; leave it out"),
        (f"{AUDIT} --attack none --no-random-start", "--random-start says nothing to --attack none"),
        (f"{AUDIT} --attack a.py:f --eps 1", "--eps says nothing to --attack a.py:f; set it inside that function"),
        (f"{AUDIT} --eps eight", "value for '--eps': 'eight' is not a number of at least 0; write 0.03 or 8/255"),
        (f"{AUDIT} --eps -1", "'-1' is not a number of at least 0"),
        (f"{AUDIT} --eps 1/0", "'1/0' is not a number"),
        (f"{AUDIT} --alpha nan", "'nan' is not a number"),
        (f"{AUDIT} --steps -1", "--steps"),
        (f"{AUDIT} --norm l3", "'l3' is not one of 'linf', 'l2'"),
        (f"{AUDIT} --layers relu5", "the model has no layer 'relu5'; closest: relu4"),
        (f"{AUDIT} --layers actvations", "closest: activations"),
        (f"{AUDIT} --layers blocks", "the model has no blocks"),
        (f"{AUDIT} --layers block*", "no layer of the model fits the pattern 'block*'"),
        (f"{AUDIT} --channel-dim relu1", "--channel-dim 'relu1' is not NAME=AXIS"),
        (f"{AUDIT} --channel-dim relu1=x", "--channel-dim 'relu1=x' is not NAME=AXIS"),
        (f"{AUDIT} --channel-dim relu1=1 --channel-dim relu1=2", "gives 'relu1' two axes, 1 and 2"),
        (f"{AUDIT} --channel-dim conv1=1", "channel_dims names 'conv1', which is not among the tapped layers"),
        (f"{AUDIT} --device gpu", "--device 'gpu' is no device; write cpu, cuda or cuda:1"),
        (f"{AUDIT} --device meta", "--device 'meta' cannot be used here"),
        (f"{AUDIT} --dtype int8", "'int8' is not one of 'float32'"),
        (f"{AUDIT} --seed -1", "'-1' is not a whole number from 0 to 4294967295"),
        (f"{AUDIT} --seed 4294967296", "'4294967296' is not a whole number"),
        (f"{AUDIT} --threads 0", "--threads"),
        (f"{AUDIT} --top many", "--top"),
        (f"{AUDIT} --out <tmp>/file", "<tmp>/file: <tmp>/file is a file; choose another --out"),
        (f"{AUDIT} --out <tmp>/file/sub", "cannot write to the folder <tmp>/file/sub: <tmp>/file is a file"),
        (f"{AUDIT} --out <tmp>/file --model digit-cnn", "choose another --out"),  # what is cheap is checked first
        (f"{AUDIT} --attack pdg --model digit-cnn", "unknown attack 'pdg'"),
        (f"{AUDIT} --layers relu5 --data imagefolder:<tmp>/none", "the model has no layer 'relu5'"),
        ("show", "Missing argument 'REPORT'"),
        ("show <tmp>/none", "cannot read <tmp>/none: No such file"),
        ("show <tmp>", "the folder <tmp> holds no audit.safetensors; neurosens-fast audit --out <tmp> would write one"),
        ("show <tmp>/file", "<tmp>/file: truncated, damaged, or no safetensors file"),
        ("show <report> --by sensitivty", "unknown metric 'sensitivty'; did you mean sensitivity"),
        ("show <report> --by zzz", "unknown metric 'zzz'; choose one of sensitivity, "),
        ("show <report> --layer relu9", "unknown layer 'relu9'; did you mean relu"),
        ("show <report> --top 0.0", "'0.0' is neither a count nor a share; write 20, 5% or 0.05"),
        ("show <report> --top 101%", "'101%' is neither"),
        ("show <report> --top ten", "'ten' is neither"),
        ("show <report> --plot <tmp>/a.xyz", "cannot draw a .xyz file"),
        ("show <report> --csv <tmp>/none/a.csv", "cannot write <tmp>/none/a.csv"),
        ("show <report> --csv <report>/audit.safetensors", "is the report itself; choose another name"),
        ("show <report> --html <tmp>/none/a.html", "cannot write <tmp>/none/a.html"),
        ("show <report> --html <report>/audit.safetensors", "is the report itself; choose another name"),
        ("show <report> --markdown <tmp>/a.png", "<tmp>/a.png is named twice"),
        ("show <report> --markdown <tmp>/a.md --plot <tmp>/a.png", "<tmp>/a.png is named twice"),
        ("compare <report>", "Missing argument 'B'"),
        ("compare <report> <tmp>/none", "cannot read <tmp>/none: No such file"),
        ("compare <tmp> <report>", "the folder <tmp> holds no audit.safetensors"),
        ("compare <report> <tmp>/file", "<tmp>/file: truncated, damaged, or no safetensors file"),
        ("compare <report> <report> --by sensitivty", "unknown metric 'sensitivty'; did you mean sensitivity"),
        ("compare <report> <report> --top ten", "'ten' is neither"),
        ("compare <report> <report> --moved -1", "--moved"),
        ("compare <report> <report> --out <tmp>/file", "cannot write to the folder <tmp>/file"),
        ("compare <report> <report> --out <report>", "<report> already holds neurons.csv; choose another folder"),
        ("layers", "Missing argument 'MODEL'"),
        ("layers digits-cnn --shape 1,8,0", "'1,8,0' is not the shape of a sample; write its sizes, as in 3,224,224"),
        ("layers digits-cnn --shape 3,8,8", "inputs of --shape, shape [3, 8, 8], do not fit the model: Given groups=1"),
        ("layers digits-cnn --layers relu5", "the model has no layer 'relu5'"),
        (f"{MASK} --by sensitivty", "unknown metric 'sensitivty'"),
        (f"{MASK} --counts 0,some", "'some' is neither a count nor a share"),
        (f"{MASK} --scope global", "'global' is not one of 'layer', 'model'"),
        (f"{MASK} --layers conv1", "the report did not measure layer 'conv1'"),
        (f"{MASK} --model mnist-cnn --data mnist:<tmp>", "MNIST is not in"),
        (f"{MASK} --model torchvision:alexnet", "the report is of another model"),
        (f"{MASK} --out <tmp>/file", "cannot write to the folder <tmp>/file"),
        (MASK.replace("<report>", "<tmp>/none"), "cannot read <tmp>/none"),
        ("demo --epochs 0", "--epochs"),
        ("demo --eps eight", "'eight' is not a number of at least 0"),
        ("demo --seed x", "'x' is not a whole number"),
        ("demo --out <tmp>/file", "is a file"),
        ("demo --out <tmp>/file/sub", "cannot write to the folder"),
    ],
)  # fmt: skip
def test_typed_wrong(words: str, message: str, run: Run, tmp_path: Path, audited: Path) -> None:
    (tmp_path / "file").write_text("no report")
    before = {path: path.stat().st_mtime_ns for path in audited.iterdir()}

    def placed(text: str) -> str:
        return text.replace("<tmp>", str(tmp_path)).replace("<report>", str(audited))

    result = run(*map(placed, words.split()))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("neurosens-fast: ")
    assert result.err.count("\n") == 1
    assert placed(message) in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert {path: path.stat().st_mtime_ns for path in audited.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{AUDIT} --layers relu1 --channel-dim relu1=9", "layer 'relu1': channel axis 9 does not fit its output"),
        (f"{MASK} --counts 9999", "counts must lie in 0..240"),
    ],
)
def test_found_wrong_by_the_first_batch(words: str, message: str, run: Run, tmp_path: Path, audited: Path) -> None:
    result = run(*words.replace("<tmp>", str(tmp_path)).replace("<report>", str(audited)).split())
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert message in result.err
    assert list(tmp_path.iterdir()) == []
