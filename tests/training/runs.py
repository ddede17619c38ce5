"""A run of some seconds, and what tests do to it; importable by the processes that tests kill."""

import os
import resource
import signal
from pathlib import Path

from composer.language.load import loads

SPEC = """
schema: 1
name: tiny
model: {width: 16, vocab: 16, context: 16}
blocks:
  seq: {type: sequence_attention, heads: 2, kv_heads: 1}
  depth: {type: depth_attention, heads: 2, kv_heads: 1}
  expert: {type: expert_attention, experts: 4, active: 2, hidden: 16}
stages: [{recur: 2, step: [seq, depth, expert]}]
train:
  data: {task: hop, length: 16, symbols: 4, hops: 1}
  tokens: 7680  # 30 steps
  batch_tokens: 256
  eval: {every: 2560, tokens: 256}
  checkpoint: {every: 1792}
"""
STEPS, TOKENS = 30, 256


def spec(*settings):
    return loads(SPEC, "tiny.yaml", settings)


def contents(folder):
    """Everything that a run leaves and that must not depend on how it got there."""
    names = ("spec.yaml", "cost.json", "plan.txt", "metrics.csv", "model.safetensors")
    by_name = {name: (Path(folder) / name).read_bytes() for name in names}
    # equal checkpoints may be pickled differently, by which of their strings are the same object
    checkpoints = ("best.ckpt", "last.ckpt", "stable.ckpt", "stable-best.ckpt")
    return by_name | {
        name: loaded(Path(folder) / name) for name in checkpoints if (Path(folder) / name).exists()
    }


def loaded(path):
    import torch

    def plain(value):
        match value:
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list() | tuple():
                return [plain(item) for item in value]
            case torch.Tensor():
                return value.dtype, value.tolist()
        return value

    return plain(torch.load(path, weights_only=True))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, moment, count):
    """Train, and die at the `count`-th time that `moment` comes."""
    import torch

    from composer.training import recorder, run
    from composer.training.folder.metrics import MetricsFile

    left = [count]

    def deadly(real, first):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                first(*args)
                die()
            return real(*args, **kwargs)

        return wrapped

    def half_saved(checkpoint, file):
        torch.serialization.save(checkpoint, half := Path(folder, "half"))
        file.write(half.read_bytes()[:9000])
        file.flush()
        half.unlink()

    def half_row(file, row):
        with file.path.open("a") as out:
            out.write("21,5376,0.0")

    recorder._ROWS = 8
    match moment:
        case "step":
            real = recorder.Recorder.on_train_batch_end
            recorder.Recorder.on_train_batch_end = deadly(real, lambda *_: None)
        case "replace":
            os.replace = deadly(os.replace, lambda *_: None)
        case "save":
            torch.save = deadly(torch.save, half_saved)
        case "row":
            MetricsFile.append = deadly(MetricsFile.append, half_row)
        case "never":
            pass
    run.run_training(spec(), Path(folder))


def on_a_small_disk(folder, size):
    """Train where no file may become larger than `size` bytes; write down the error."""
    from composer.training.folder.errors import TrainingError
    from composer.training.run import run_training

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        run_training(spec(), Path(folder))
    except TrainingError as error:
        Path(f"{folder}.error").write_text(str(error))
