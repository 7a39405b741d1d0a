"""Peak memory of ``generate`` over photographs of 4,000 x 3,000 pixels, for several numbers of them.

    python benchmarks/image_memory.py [--images 20 200] [--views 2]

Each number is labelled by a process of its own, with one thread of torch and as many decoding threads as cores.
RssAnon is the anonymous memory at its peak; most of it is torch and the images in flight. The files are made from
seeds, a few different ones with a number of their own at the end, so that every key differs.

The goal is for memory in use. By default the allocator of glibc retains freed buffers of up to 32 MiB, such as an image
at half its width. How many depends on how threads take turns, so the peak of more images is a little higher. Each
number is measured with MALLOC_MMAP_THRESHOLD_ of 1 MiB, above which freed buffers are returned at once, and without it.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HEIGHT, WIDTH = 3000, 4000
DIFFERENT = 5
GOAL = 1.1
IN_USE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Environment in which freed buffers are returned at once."""


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of twelve megapixels each."""
    import numpy as np
    from PIL import Image

    encoded = []
    for seed in range(DIFFERENT):
        small = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 50, WIDTH // 50, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    for number in range(count):
        path = folder / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[number % DIFFERENT] + number.to_bytes(4, "little"))


def label(folder: str, out: str, views: int) -> None:
    """Label a folder with a small teacher and print the peak of anonymous memory in MiB."""
    import torch

    import softlabels as sl

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 10))

    def teacher(images: object) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = module(torch.as_tensor(images).float() / 255)
            return logits

    ended, peak = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.01):
            text = Path("/proc/self/status").read_text(encoding="ascii")
            peak[0] = max(peak[0], int(text.partition("RssAnon:")[2].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    options = {"views": views, "augment": "randcrop,flip,color"} if views else {}
    sl.generate(folder, teacher=teacher, out=out, size=224, batch_size=16, gate=False, **options)
    ended.set()
    watcher.join()
    print(peak[0] / 1024)


def main() -> None:
    """Parse the command line and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--label", nargs=2, metavar=("FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.label is not None:
        label(*arguments.label, arguments.views)
        return
    peaks: list[list[float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in arguments.images:
            folder = Path(temporary, f"photos-{count}")
            write_photographs(folder, count)
            command = [sys.executable, __file__, "--views", str(arguments.views), "--label", str(folder)]
            peaks.append([])
            for turn, environment in enumerate((IN_USE, {})):
                out = f"{temporary}/labels-{count}-{turn}"
                done = subprocess.run(
                    [*command, out], capture_output=True, text=True, check=True, env={**os.environ, **environment}
                )
                peaks[-1].append(float(done.stdout.split()[-1]))
            print(
                f"{count:,} photographs of {WIDTH:,} x {HEIGHT:,}: peak {peaks[-1][0]:.0f} MiB in use, "
                f"{peaks[-1][1]:.0f} MiB with what the allocator retains",
                flush=True,
            )
    ratios = [last / first for first, last in zip(peaks[0], peaks[-1], strict=True)]
    print(f"last over first: {ratios[0]:.2f} in use, goal {GOAL}; {ratios[1]:.2f} with what the allocator retains")


if __name__ == "__main__":
    main()
