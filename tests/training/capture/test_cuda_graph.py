"""Training steps that are recorded and replayed: the same protocol on a CPU, and CUDA graphs on a GPU."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from processes import run_all
from replaying import Replaying

import composer
from composer.cli.main import main
from composer.module.capture.recorded_step import RecordedStep
from composer.module.capture.recorder import CannotCapture
from composer.testing.models import make
from composer.training.capture import cuda_graph, step_graphs
from composer.training.capture.cuda_graph import (
    CudaGraph,
    refuse,
    strategy_refusal,
    what_depends_on_data,
)
from composer.training.capture.step_graphs import StepGraphs
from composer.training.folder.errors import TrainingError
from composer.training.trainer import quiet

FAMILY = Path(__file__).parents[3] / "specs" / "family"
STEPS = 20
TRAIN = {
    "data": {"task": "hop", "length": 12, "symbols": 4, "hops": 1},
    "tokens": STEPS * 48,
    "batch_tokens": 48,
    "lr": 1e-2,
}
BLOCKS = {
    "seq": {"type": "sequence_attention", "heads": 2},
    "depth": {"type": "depth_attention", "heads": 2},
    "expert": {"type": "expert_attention", "experts": 4, "active": 2, "hidden": 8},
}
STAGE = {"recur": 2, "step": ["seq", "depth", "expert"]}


def spec(stage=STAGE, model=None, **train):
    return make(
        {
            "schema": 1,
            "name": "tiny",
            "model": {"width": 16, "vocab": 16, "context": 12, **(model or {})},
            "blocks": {name: BLOCKS[name] for name in stage["step"]},
            "stages": [stage],
            "train": TRAIN | train,
        }
    )


class Losses(lightning.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, model, outputs, batch, index):
        self.seen.append((float(outputs["loss"]), model.step_loss and float(model.step_loss)))


class Kept(CudaGraph):
    """Keeps the recordings of the fit for a look at them."""

    def teardown(self, trainer, model, stage):
        self.kept = self.graphs
        super().teardown(trainer, model, stage)


def fitted(of, choice, *callbacks, loader=None, **options):
    """Train on a CPU; the model, its losses and the callback."""
    model, losses, graphs = composer.compile(of, torch_compile="off"), Losses(), Kept(choice)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        callbacks=[graphs, losses, *callbacks],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accelerator": "cpu", "accumulate_grad_batches": of.train.accumulate, **options},
    )
    with quiet():
        trainer.fit(model, loader or composer.datamodule(of))
    return model, losses.seen, graphs.kept if graphs.choice != "off" else None


def equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def replaying(monkeypatch):
    """Have steps recorded by what needs no GPU."""
    monkeypatch.setattr(cuda_graph, "CudaGraphs", Replaying)
    monkeypatch.setattr(cuda_graph, "what_depends_on_data", lambda *given: "")


ALL = {"recur": {"steps": 3, "train": {"uniform": [1, 3]}}, "step": ["seq", "depth", "expert"]}
LAST = STAGE | {"inject": "concat", "backprop": {"last": 1}, "halt": {"act": 0.1}}
VARIANTS = {
    "all": (
        spec(ALL, {"dropout": 0.2}, accumulate=2, ema=0.9, clip=0.01),
        {"precision": "bf16-mixed"},
    ),
    "twice": (spec({"recur": 3, "step": ["seq"]}, {"loss": {"consistency": 0.1, "short": 2}}), {}),
    "plain": (spec(), {}),
    "last": (spec(LAST), {}),
}
SOME = [name if name == "all" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]


@pytest.mark.parametrize("name", SOME)
def test_replayed_steps_train_to_the_same_bits(name, replaying):
    of, options = VARIANTS[name]
    (plain, wanted, _), (replayed, got, graphs) = (fitted(of, each, **options) for each in ("off", "on"))
    assert got == wanted
    assert equal(replayed, plain)
    assert graphs.replayed == STEPS * of.train.accumulate


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) for path in sorted(FAMILY.glob("*.yaml"))],
    ids=lambda p: p.stem,
)
def test_every_spec_of_the_family_replays_its_loss_and_gradients(path):
    of = composer.load(path)
    model = composer.compile(of, torch_compile="off").train()
    graphs = StepGraphs(Replaying, required=True)
    length = of.train.data.length
    for step in range(3):
        tokens, targets = torch.randint(of.model.vocab, (2, 2, length))
        buffers = [each.clone() for each in model.buffers()]
        results = []
        for run in (step_graphs.losses, graphs.losses):
            for each, kept in zip(model.buffers(), buffers, strict=True):
                each.copy_(kept)
            model.zero_grad()
            model.randomness.step = step
            loss, _ = model._losses(tokens, targets, run)
            loss.backward()
            results.append([loss.detach(), *(each.grad for each in model.parameters()), *model.buffers()])
            results[-1] = [None if each is None else each.clone() for each in results[-1]]
        for one, two in zip(*results, strict=True):
            assert (one is None) == (two is None)
            assert one is None or torch.equal(one, two)
    assert graphs.replayed == 3


def test_numbers_of_steps_beyond_the_bound_run_as_they_are(replaying, monkeypatch):
    monkeypatch.setattr(step_graphs, "MOST", 1)
    of = spec({"recur": {"steps": 3, "train": {"uniform": [1, 3]}}, "step": ["seq"]})
    plain, some = (fitted(of, each) for each in ("off", "on"))
    assert 0 < some[2].replayed < STEPS
    assert (some[1], equal(some[0], plain[0])) == (plain[1], True)


@pytest.mark.filterwarnings("ignore:You defined a")
def test_a_batch_of_another_shape_runs_as_it_is(replaying):
    of = spec({"recur": 2, "step": ["seq"]})
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(16, (2, rows, 12), generator=draw).unbind() for rows in (4, 4, 2) * 7][:STEPS]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    plain, some = (fitted(of, each, loader=loader) for each in ("off", "on"))
    assert (some[1], equal(some[0], plain[0])) == (plain[1], True)
    assert some[2].replayed == sum(len(tokens) == 4 for tokens, _ in batches)


class Moves(lightning.Callback):
    """At one step puts the weights elsewhere, at another freezes one, and watches the model for some."""

    def on_train_batch_start(self, trainer, model, batch, index):
        if index == 5:
            for each in model.parameters():
                each.data = each.data.clone()
        if index == 9:
            model.embedding.requires_grad_(False)
        if index == 12:
            self.hook = model.stages[0].register_forward_hook(lambda *given: None)
        if index == 15:
            self.hook.remove()


def test_weights_that_move_or_freeze_are_recorded_anew_and_watched_steps_run_as_they_are(replaying):
    of = spec({"recur": 2, "step": ["seq"]})
    plain, some = (fitted(of, each, Moves()) for each in ("off", "on"))
    assert (some[1], equal(some[0], plain[0])) == (plain[1], True)
    assert some[2].replayed == STEPS - 3


class Stale(Replaying):
    """Computes the same at every replay, as a graph would that reads a copy of what it is given."""

    def record(self, work):
        made = [each.detach().clone() for each in work()]
        return made, lambda: None


class Broken(Replaying):
    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize(
    ("recorder", "message"),
    [(Stale, "its replay is off: loss"), (Broken, "not permitted when stream is capturing")],
)
def test_a_recording_that_is_off_or_fails_ends_recording_or_the_run(
    recorder, message, replaying, monkeypatch
):
    monkeypatch.setattr(cuda_graph, "CudaGraphs", recorder)
    monkeypatch.setattr(cuda_graph, "WORTH_CAPTURING", 1)
    with pytest.raises(CannotCapture, match=message):
        fitted(spec(), "on")
    with pytest.warns(UserWarning, match=f"training goes on without a CUDA graph: .*{message}"):
        model, _, graphs = fitted(spec(), "auto")
    assert message in graphs.off
    assert graphs.replayed == (recorder is Stale)
    assert recorder is Stale or equal(model, fitted(spec(), "off")[0])


def test_gradients_add_up_over_passes_without_zeroing_and_there_is_one_backward_pass_for_each():
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    step = RecordedStep(Replaying(), lambda x: [(weight * x).sum()], [torch.ones(2)], [weight])
    for x, wanted in ((1.0, 1.0), (10.0, 11.0), (100.0, 111.0)):
        (loss,) = step([torch.full((2,), x)])
        loss.backward()
        assert loss.item() == 5 * x
        assert weight.grad.tolist() == [wanted, wanted]
    weight.grad.zero_()  # is where the recording writes, or not: the next gradient is the same
    (loss,) = step([torch.ones(2)])
    (loss / 4).backward(retain_graph=True)
    assert weight.grad.tolist() == [0.25, 0.25]
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()
    (first,), (second,) = step([torch.ones(2)]), step([torch.ones(2)])
    with pytest.raises(RuntimeError, match="before the next forward pass"):
        first.backward()
    second.backward()


def test_on_is_refused_in_words_on_a_cpu_for_sharded_weights_and_for_steps_that_depend_on_data(
    tmp_path, capsys, monkeypatch
):
    arguments = [str(FAMILY / "gpt2.yaml"), "--out", str(tmp_path / "run"), "--cuda-graph", "on"]
    assert main(["train", *arguments]) == 1
    assert "cuda_graph on: expected a GPU, got the device cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainingError, match=r"cuda_graph on: expected whole weights .*got sharded ones"):
        refuse("on", "cuda", "fsdp")
    refuse("on", "cuda", "ddp")
    refuse("auto", "cpu", "fsdp")
    assert strategy_refusal(SingleDeviceStrategy("cpu")) == strategy_refusal(DDPStrategy()) == ""
    assert strategy_refusal(FSDPStrategy()) == "expected one device or DDP, got FSDPStrategy"
    with pytest.raises(TrainingError, match="cuda_graph on: expected a GPU"):
        fitted(spec(), "on")
    monkeypatch.setattr(cuda_graph, "CudaGraphs", Replaying)
    with pytest.raises(TrainingError, match=r"cuda_graph on: .*waits for the GPU at .*experts"):
        fitted(spec(), "on")  # grouped products in fp32
    assert what_depends_on_data(spec(), "bfloat16", "auto") == ""
    routed = composer.load(FAMILY / "mixture-of-recursions-token.yaml")
    assert "waits for the GPU at blocks/wiring/route" in what_depends_on_data(routed, "bfloat16", "auto")


def test_auto_says_why_not_on_a_gpu_alone(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(cuda_graph, "WORTH_CAPTURING", 1)
        assert fitted(spec(), "auto")[2] is None
        monkeypatch.setattr(cuda_graph, "CudaGraphs", Replaying)
        monkeypatch.setattr(cuda_graph, "WORTH_CAPTURING", STEPS + 1)
        assert fitted(spec(), "auto")[2] is None
    monkeypatch.setattr(cuda_graph, "WORTH_CAPTURING", STEPS)
    with pytest.warns(UserWarning, match="without a CUDA graph: .*waits for the GPU"):
        assert fitted(spec(), "auto")[2] is None


def test_a_step_that_does_not_run_on_fake_tensors_is_trained_without_a_graph(monkeypatch):
    def unknown(*given, **named):
        raise NotImplementedError("mine::op has no fake kernel\nmore")

    monkeypatch.setattr(cuda_graph, "step_launches", unknown)
    monkeypatch.setattr(cuda_graph, "CudaGraphs", Replaying)
    monkeypatch.setattr(cuda_graph, "WORTH_CAPTURING", STEPS)
    with pytest.warns(
        UserWarning, match="without a CUDA graph: the step does not run .*: mine::op has no fake kernel$"
    ):
        assert fitted(spec(), "auto")[2] is None


def ranked(rank, ranks, folder):
    """Train 6 optimizer steps of two micro-batches under DDP, as they are and replayed; keep the weights."""
    store = torch.distributed.FileStore(str(folder / "store"), ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    draw = torch.Generator().manual_seed(rank)
    batches = torch.randint(16, (12, 2, 4, 12), generator=draw)
    graphs = StepGraphs(Replaying, required=True)
    results = []
    for losses in (step_graphs.losses, graphs.losses):
        model = composer.compile(spec(), torch_compile="off").train()
        model.step_losses = losses
        model.forward = lambda *given, model=model: model._losses(*given, model.step_losses)[0]
        averaged = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for number, (tokens, targets) in enumerate(batches):
            with nullcontext() if number % 2 else averaged.no_sync():
                averaged(tokens, targets).backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
        results.append([each.detach().clone() for each in model.parameters()])
    assert graphs.replayed == len(batches)
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_replayed_steps_train_to_the_same_bits_under_ddp(ranks, tmp_path):
    assert run_all(*((ranked, rank, ranks, tmp_path) for rank in range(ranks))) == [0] * ranks
    plain, _ = torch.load(tmp_path / "0.pt")
    assert len(plain) > 4
    for rank in range(ranks):
        for one, *others in zip(plain, *torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert all(torch.equal(one, other) for other in others)


@pytest.mark.gpu
@pytest.mark.parametrize("name", VARIANTS)
def test_cuda_graphs_train_as_plain_steps_do(name):
    of, options = VARIANTS[name]
    options = {**options, "precision": "bf16-mixed", "accelerator": "cuda", "devices": 1}
    (_, wanted, _), (_, got, graphs) = (fitted(of, each, **options) for each in ("off", "on"))
    assert [each for each, _ in got] == pytest.approx([each for each, _ in wanted], rel=2e-2)
    assert graphs.replayed == STEPS * of.train.accumulate
