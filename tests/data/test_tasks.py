import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

import composer.data.tasks
from composer.data.base.config import DataConfig
from composer.data.find import data_tasks
from composer.data.tasks.hop import Hop
from composer.testing.run import examined
from composer.testing.tasks import CHECKS

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


@pytest.fixture
def fresh():
    data_tasks.cache_clear()
    yield
    data_tasks.cache_clear()


def check_copy(task):
    assert [result for result in examined({"copy": task()}, CHECKS) if result.fault] == []
    tokens, targets, _ = task().stream("train", 0).batch(0, 1)
    assert targets[0, 16:].tolist() == tokens[0, :16].tolist()
    with pytest.raises(ValidationError):
        task(length=17)


def test_the_documented_task_works_as_one_more_file(tmp_path, monkeypatch, fresh):
    shipped = [*data_tasks()]
    data_tasks.cache_clear()
    (source,) = blocks("python")
    (tmp_path / "copy.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(composer.data.tasks, "__path__", [*composer.data.tasks.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "composer.data.tasks.copy", raising=False)
    assert [*data_tasks()] == sorted([*shipped, "copy"])
    check_copy(data_tasks()["copy"])
    monkeypatch.delitem(sys.modules, "composer.data.tasks.copy")


def test_the_documented_task_works_through_the_documented_entry_point(tmp_path, monkeypatch, fresh):
    (source,), (points,) = blocks("python"), blocks("toml")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/copy.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    group, name, value = re.fullmatch(r'\[project.entry-points."(.+)"\]\n(\w+) = "(.+)"\n', points).groups()
    results = [EntryPoint(name=name, value=value, group=group)]
    monkeypatch.setattr(
        "blocks.base.discover.entry_points", lambda group: [p for p in results if p.group == group]
    )
    check_copy(data_tasks()["copy"])


def test_documented_specs_are_valid():
    examples = [yaml.safe_load(block)["data"] for block in blocks("yaml")]
    assert {example["task"] for example in examples} == set(data_tasks())
    for example in examples:
        result = data_tasks()[example["task"]](**{"length": 32} | example)
        assert json.loads(result.model_dump_json(include=set(example))) == example


def test_the_base_of_all_tasks_promises_nothing():
    config = DataConfig(task="none", length=4)
    assert config.group_names is None
    assert config.bytes_per_token is None
    for ask in (lambda: config.vocab_needed, lambda: config.stream("train", 0)):
        with pytest.raises(NotImplementedError):
            ask()


def test_finding_tasks_imports_nothing_heavy():
    code = "import sys; from composer.data.find import data_tasks; data_tasks(); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert not {"numpy", "torch", "lightning"} & set(ran.stdout.split())
    assert "composer.data.tasks.text" in ran.stdout


class Broken(Hop):
    """Hop, with one thing at a time that no task may do."""

    task: Literal["broken"] = "broken"
    wrong: str

    @property
    def vocab_needed(self):
        return super().vocab_needed - (self.wrong == "vocabulary and targets")

    @property
    def group_names(self):
        return None if self.wrong == "groups" else super().group_names

    def stream(self, split, seed):
        split = "train" if self.wrong == "train and eval apart" else split
        inner, wrong = super().stream(split, seed), self.wrong

        class Changed:
            def batch(self, step, size):
                batch = inner.batch(0 if wrong == "functions of seed and step" else step, size)
                return batch._replace(group=batch.group[1:]) if wrong == "shapes" else batch

        return Changed()


@pytest.mark.parametrize("wrong", CHECKS)
def test_what_a_task_may_not_do_is_found(wrong):
    by_name = {each.check for each in examined({"x": Broken(length=16, wrong=wrong)}, CHECKS) if each.fault}
    assert wrong in by_name
    assert len(by_name) < len(CHECKS)
