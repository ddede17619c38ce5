"""A recorder that needs no GPU: it runs the work again and writes what it makes where it was at first.

Like a CUDA graph, it reads inputs where they were when it was recorded, and what a replay made is there until
the next one. Until the first replay there is nothing of use.
"""

import torch


class Replaying:
    """Records as `CudaGraphs` does; notes what it did."""

    def __init__(self):
        self.recorded = self.replays = 0

    def refusal(self, device):
        return ""

    def warm_up(self, work):
        work()

    def record(self, work):
        self.recorded += 1
        made = [each.detach().clone() for each in work()]
        for each in made:
            if each.is_floating_point():
                each.fill_(torch.nan)

        def replay():
            self.replays += 1
            for here, each in zip(made, work(), strict=True):
                here.copy_(each)

        return made, replay
