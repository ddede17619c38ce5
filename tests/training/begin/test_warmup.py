"""The same spec with more tokens goes on with the warmup that the run was trained with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import SPEC, TOKENS, contents, spec
from samples import samples

from composer.cli.main import main
from composer.language.description.show import resolved_yaml
from composer.language.load import load, loads
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Schedule
from composer.module.optimization.schedule import schedule as rate
from composer.module.optimization.schedule import warmup_steps
from composer.training import recorder
from composer.training.folder.errors import TrainingError
from composer.training.run import run_training
from composer.training.warmup import keep_warmup, schedule_text, with_warmup

# 30 steps with the default shares are 2 of warmup; 60 would be 3
LONGER = f"train.tokens={60 * TOKENS}"
LONGEST = f"train.tokens={120 * TOKENS}"
KEPT = "train.schedule={warmup: 0.03, stable: 0.77, decay: 0.2}"
LINE = f"warmup stays at 2 optimizer steps, as trained: {KEPT.replace('=', ' is ')}"


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPEC)

    def call(*settings):
        options = [option for setting in settings for option in ("--set", setting)]
        code = main(["train", "tiny.yaml", "--out", "run", *options])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return call


def without_training_rows(folder):
    """What a run leaves, but for how often `train_loss` is logged, which depends on its length."""
    before = contents(folder)
    rows = [row.split(",") for row in before["metrics.csv"].decode().splitlines() if not row.endswith(",,,")]
    return before | {"metrics.csv": [row[:3] + row[4:] for row in rows]}


def test_the_plain_command_is_bit_equal_to_a_run_with_the_kept_warmup_from_the_start(train, tmp_path):
    code, said, _ = train()
    assert code == 0
    assert not any("warmup" in line for line in said)
    code, said, _ = train(LONGER)
    assert code == 0
    assert said.count(LINE) == 1
    asked = spec(LONGER, KEPT)
    whole = run_training(asked, tmp_path / "whole")
    assert without_training_rows(tmp_path / "run") == without_training_rows(whole.folder)

    there = load(tmp_path / "run" / "spec.yaml")
    assert resolved_yaml(there) == resolved_yaml(asked)
    assert run_hash(there) == run_hash(asked) != run_hash(spec(LONGER))

    before = contents(tmp_path / "run")
    code, said, _ = train(LONGER)
    assert code == 0
    assert {LINE, "this run is already finished; its result:"} <= set(said)
    assert contents(tmp_path / "run") == before


def test_stopped_in_the_middle_the_same_command_goes_on(train, tmp_path, monkeypatch):
    assert train()[0] == 0
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    real = recorder.Recorder.on_train_batch_end

    def stopped(self, *args, **kwargs):
        real(self, *args, **kwargs)
        if args[0].global_step == 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "on_train_batch_end", stopped)
        assert train(LONGER)[0] == 130
    code, said, _ = train(LONGER)
    assert code == 0
    assert LINE in said
    assert any(line.startswith("step 60/60") for line in said)
    whole = run_training(spec(LONGER, KEPT), tmp_path / "whole")
    ends = [without_training_rows(tmp_path / "run"), without_training_rows(whole.folder)]
    assert ends[0] == ends[1]


def test_the_same_file_goes_on_again_and_again_and_from_the_spec_of_the_run(tmp_path):
    run_training(spec("train.tokens=2560"), folder := tmp_path / "run")  # 10 steps, none of them warmup
    for steps in (30, 60):
        asked = spec(f"train.tokens={steps * TOKENS}")
        kept = keep_warmup(folder, asked)
        assert warmup_steps(kept.train) == 0 < warmup_steps(asked.train)
        run_training(kept, folder, until_tokens=steps // 3 * TOKENS)
        assert keep_warmup(folder, asked).train == kept.train == load(folder / "spec.yaml").train
        own = load(folder / "spec.yaml", [LONGEST])
        assert keep_warmup(folder, own) is own
    assert warmup_steps(keep_warmup(folder, spec(LONGEST)).train) == 0


def test_a_schedule_that_the_run_never_had_is_refused(train, tmp_path):
    run_training(spec(), folder := tmp_path / "run", until_tokens=8 * TOKENS)
    before = contents(folder)
    others = (
        "train.schedule={warmup: 0.1, stable: 0.7, decay: 0.2}",
        "train.schedule={warmup: 0.05, stable: 0.65, decay: 0.3}",
    )
    for other in others:
        code, said, error = train(LONGER, other)
        assert code == 1
        assert not any("warmup stays" in line for line in said)
        assert "2 optimizer steps of warmup" in " ".join(error.split())
        assert contents(folder) == before
    assert not (folder / "schedules.json").exists()
    # with the schedule that keeps the warmup written out, the plain command is the same run
    run_training(spec(LONGER, KEPT), folder, until_tokens=9 * TOKENS)
    assert keep_warmup(folder, spec(LONGER)).train == spec(LONGER, KEPT).train
    for other in others:
        assert keep_warmup(folder, asked := spec(LONGER, other)) is asked


def test_a_spec_is_left_as_it_is_where_the_warmup_is_not_the_only_obstacle(tmp_path):
    folder = tmp_path / "run"
    assert keep_warmup(folder, asked := spec(LONGER)) is asked
    run_training(spec(), folder, until_tokens=8 * TOKENS)
    for settings in (
        (),
        ("train.tokens=2560",),
        (LONGER, "train.lr=0.001"),
        (LONGER, "name=other", "model.width=8"),
    ):
        assert keep_warmup(folder, asked := spec(*settings)) is asked
    assert keep_warmup(folder, spec(LONGER, "name=other")).train == spec(LONGER, KEPT).train
    (folder / "last.ckpt").unlink()  # a run that was not saved yet has no warmup to keep
    assert keep_warmup(folder, asked := spec(LONGER)) is asked


def test_another_share_that_makes_the_same_rates_stays_recorded(tmp_path):
    run_training(spec(), folder := tmp_path / "run", until_tokens=TOKENS)
    own = "train.schedule={warmup: 0.035, stable: 0.765, decay: 0.2}"
    run_training(spec(LONGER, own), folder, until_tokens=2 * TOKENS)
    assert keep_warmup(folder, spec(LONGER)).train == spec(LONGER, own).train


@pytest.mark.parametrize("text", ["", "{", "3", '[{"warmup": 2}]', "[3]"])
def test_a_damaged_record_of_schedules_is_an_error_that_names_it(tmp_path, text):
    run_training(spec(), folder := tmp_path / "run", until_tokens=TOKENS)
    (folder / "schedules.json").write_text(text)
    with pytest.raises(
        TrainingError, match=r"schedules\.json: expected the list of this run's earlier schedules"
    ):
        keep_warmup(folder, spec(LONGER, "train.schedule={warmup: 0.1, stable: 0.7, decay: 0.2}"))


def test_a_warmup_longer_than_the_run_is_refused_without_an_option(tmp_path):
    shares = "train.schedule={warmup: 0.5, stable: 0.3, decay: 0.2}"
    run_training(spec(shares), folder := tmp_path / "run", until_tokens=TOKENS)
    with pytest.raises(
        TrainingError, match=r"15 optimizer steps of warmup; .* choose another folder with --out"
    ):
        run_training(spec(shares, "train.tokens=2560"), folder)


@samples(100)
@given(st.data(), st.integers(1, 10**7))
def test_the_share_makes_exactly_as_many_steps_and_survives_being_written(data, steps):
    warmup = data.draw(st.integers(0, steps))
    decay = data.draw(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 1.0]))
    train = loads(SPEC, "tiny.yaml", [f"train.tokens={steps * TOKENS}"]).train
    train = train.model_copy(update={"schedule": Schedule(warmup=0, stable=1 - decay, decay=decay)})
    got = with_warmup(train, warmup)
    assert with_warmup(train, steps + 1) is None
    again = spec(f"train.tokens={steps * TOKENS}", f"train.schedule={schedule_text(got)}").train
    assert again.schedule == got
    assert warmup_steps(again) == warmup
    room = got.warmup + decay <= 1
    assert got.decay == (decay if room else pytest.approx(1 - got.warmup, abs=1e-9))
    if warmup and room and again.steps - warmup > round(got.decay * steps):
        assert rate(again, warmup - 1) == 1 > rate(again, warmup - 2) or warmup == 1
