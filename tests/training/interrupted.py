"""Training that is interrupted at random moments; run by test_trainer.py in a process of its own.

    python tests/training/interrupted.py FOLDER TURNS

Prints one JSON object per turn: the message of KeyboardInterrupt, or null for a run that went on, and the step of the
checkpoint before and after.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from softlabels.sources import as_source
from softlabels.training import train_teacher
from softlabels.training.checkpoint import CHECKPOINT_FILE


class Finalizing(torch.nn.Linear):
    """A network that spends its time in finalizers, where Python swallows exceptions."""

    def forward(self, x):
        class Garbage:
            def __del__(self):
                sum(range(2000))

        for _ in range(5):
            Garbage()
        return super().forward(x)


def saved_step(out):
    """Return the step of the last checkpoint; 0 if there is none."""
    path = out / CHECKPOINT_FILE
    if not path.exists():
        return 0
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["softlabels"])["step"]


def main():
    folder, turns = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = Finalizing(3, 2)
    data = as_source(
        {"x": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32), "label": np.arange(64) % 2}
    )

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    train_teacher(data, student, folder / "imports", steps=1)
    moments = random.Random(0)
    for turn in range(turns):
        out, message, began = folder / str(turn % 8), None, time.monotonic()
        before = saved_step(out)
        arguments = (os.getpid(), moments.choice([signal.SIGINT, signal.SIGTERM]))
        timer = threading.Timer(moments.uniform(0.0, 0.25), os.kill, arguments)

        def give_up(done, total, *, began=began, **figures):
            if time.monotonic() - began > 20:
                raise TimeoutError

        try:
            timer.start()
            model = student if turn % 2 else "mlp:width=4,depth=1"
            train_teacher(data, model, out, steps=10**6, batch_size=8, progress=give_up)
        except KeyboardInterrupt as error:
            message = str(error)
        except TimeoutError:
            message = None
        timer.join()
        print(json.dumps({"message": message, "before": before, "after": saved_step(out)}))


if __name__ == "__main__":
    main()
