"""Small activations stay on one thread; large ones get what torch was started with."""

import torch

from composer.training.processes import threads


def test_only_large_activations_are_shared_out(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_default", lambda: 2)
    try:
        threads.use_fitting_threads(2400 * 48)
        assert torch.get_num_threads() == 1
        threads.use_fitting_threads(8192 * 128)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
