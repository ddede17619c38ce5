"""A run is held to the content of its data, wherever that lies."""

import json
import re
import shutil

import pytest
from runs import contents

from composer.cli.main import main
from composer.data.base.errors import DataChanged, DataError
from composer.language.load import loads
from composer.training.folder.errors import TrainingError
from composer.training.folder.run_folder import read_spec
from composer.training.run import run_training
from composer.training.score import read, score

SPEC = """
schema: 1
name: text
model: {width: 8, vocab: 256, context: 16}
blocks: {seq: {type: sequence_attention, heads: 1}}
stages: [{stack: 1, step: [seq]}]
train:
  data: {task: text, path: corpus.txt, length: 16, eval_fraction: 0.25}
  tokens: 512  # 8 steps
  batch_tokens: 64
  eval: {every: 128, tokens: 256}
"""
PROSE = "".join(f"line {i} of a déjà vu\n" for i in range(60))
OTHER = PROSE.replace("vu", "lu")


def spec(*settings):
    return loads(SPEC, "text.yaml", settings)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current directory, with a corpus in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    (tmp_path / "home" / "corpus.txt").write_text(PROSE)
    return tmp_path / "home"


@pytest.fixture
def paused(home):
    """A run that stands in the middle."""
    run_training(spec(), home / "run", until_tokens=256)
    return home / "run"


def test_a_rewritten_corpus_is_refused_with_what_changed_until_it_is_put_back(home, paused, capsys):
    before = contents(paused)
    (home / "corpus.txt").write_text(OTHER + "!")
    with pytest.raises(DataChanged) as raised:
        run_training(spec(), paused)
    sizes = [len(text.encode()) for text in (PROSE, OTHER + "!")]
    message = rf"  corpus\.txt: {sizes[0]:,} bytes, sha256 \w{{12}} -> {sizes[1]:,} bytes, sha256 \w{{12}}"
    assert re.search(message, str(raised.value))
    (home / "text.yaml").write_text(SPEC)
    assert main(["train", "text.yaml", "--out", "run"]) == 1
    assert capsys.readouterr().err == f"{raised.value}\n".replace(str(paused), "run")
    assert contents(paused) == before
    (home / "corpus.txt").write_text(PROSE)
    run_training(spec(), paused)
    run_training(spec(), home / "whole", until_tokens=256)
    run_training(spec(), home / "whole")
    assert contents(paused) == contents(home / "whole")


def test_the_same_content_in_another_place_is_the_same_data(home, paused):
    moved = home / "elsewhere" / "renamed.txt"
    moved.parent.mkdir()
    (home / "corpus.txt").rename(moved)
    with pytest.raises(DataError, match=r"file not found: .*corpus\.txt"):
        run_training(spec(), paused)
    assert run_training(spec(f"train.data.path={moved}"), paused).finished
    assert read_spec(paused).train.data.path == str(moved)
    moved.write_text(OTHER)
    with pytest.raises(DataChanged, match=r"renamed\.txt: .* -> "):
        run_training(spec(f"train.data.path={moved}"), paused)


def test_an_older_run_goes_on_with_a_warning_and_is_recorded(home, paused):
    recorded = (paused / "data.json").read_text()
    (paused / "data.json").unlink()
    shutil.copy(home / "corpus.txt", home / "copy.txt")
    with pytest.raises(DataChanged, match="can only resume with the data at the path in its own spec"):
        run_training(spec("train.data.path=copy.txt"), paused)
    assert score(read(paused)).sequences == 16
    with pytest.warns(UserWarning, match="the current data is assumed to be the same and is recorded"):
        assert run_training(spec(), paused).finished
    assert (paused / "data.json").read_text() == recorded


def test_a_damaged_record_is_refused_by_name(home, paused):
    (paused / "data.json").write_text('{"files": 3')
    with pytest.raises(TrainingError, match=r"data\.json: expected the fingerprint of a run's data"):
        run_training(spec(), paused)


def test_a_folder_of_data_says_which_file_is_changed_missing_or_new(home):
    (home / "corpus").mkdir()
    for name in "abc":
        (home / "corpus" / f"{name}.txt").write_text(name + PROSE)
    wanted = spec("train.data.path=corpus")
    run_training(wanted, home / "run", until_tokens=64)
    assert [mark["file"] for mark in json.loads((home / "run" / "data.json").read_text())["files"]] == [
        "a.txt",
        "b.txt",
        "c.txt",
    ]
    (home / "corpus" / "b.txt").write_text("b" + OTHER)
    (home / "corpus" / "c.txt").rename(home / "corpus" / "d.txt")
    with pytest.raises(DataChanged) as raised:
        run_training(wanted, home / "run")
    lines = str(raised.value).splitlines()[1:-1]
    assert [line.split(":")[0].strip() for line in lines] == ["b.txt", "c.txt", "d.txt"]
    assert lines[1].endswith("-> missing")
    assert lines[2].startswith("  d.txt: missing ->")


# scoring


def test_another_file_of_the_same_name_is_not_scored(home, paused, tmp_path, monkeypatch):
    wanted = score(read(paused))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert score(read(paused)) == wanted  # nothing of that name is here
    (tmp_path / "away" / "corpus.txt").write_text(OTHER)
    for path in (paused, paused / "best.ckpt", paused / "model.safetensors"):
        assert score(read(path)) == wanted
    assert score(read(paused), ["train.data.path=corpus.txt"]) != wanted  # asked for


def test_data_that_moved_along_with_its_run_is_found(home, paused, tmp_path, monkeypatch):
    wanted = score(read(paused))
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert score(read(tmp_path / "moved" / "run")) == wanted


def test_data_that_is_nowhere_is_told_with_the_places_and_may_be_given(home, paused, tmp_path, capsys):
    wanted = score(read(paused))
    shutil.move(home / "corpus.txt", tmp_path / "there.txt")
    (home / "corpus.txt").write_text(OTHER)
    with pytest.raises(DataError) as raised:
        score(read(paused))
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{paused}: the data of this run was not found:"
    assert lines[1].startswith("  corpus.txt: other data (then -> there): corpus.txt: ")
    assert score(read(paused), data=str(tmp_path / "there.txt")) == wanted
    assert main(["eval", str(paused), "--data", str(tmp_path / "there.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out_loss"] == wanted.scores["loss"]
    assert main(["eval", str(paused), "--data", "corpus.txt"]) == 1
    assert "corpus.txt: other data" in capsys.readouterr().err


def test_a_run_without_files_leaves_no_record(home):
    hop = spec("train.data={task: hop, length: 16, symbols: 4, hops: 1}")
    run_training(hop, home / "run", until_tokens=64)
    assert not (home / "run" / "data.json").exists()
    assert score(read(home / "run")).sequences == 16
