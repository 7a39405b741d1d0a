"""One rank of a real process group: walks through an epoch, meets the others at every step, and tells what it saw.

python -m tests.loading.rank STORE RENDEZVOUS RANK WORLD_SIZE STATE STEPS
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

import softlabels as sl


def main(store, rendezvous, rank, world_size, state, steps):
    rank, world_size, steps, state = int(rank), int(world_size), int(steps), Path(state)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    loader = sl.loader(sl.open(store), batch_size=160, seed=5, window=2, rank=rank, world_size=world_size)
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    seen = []
    for step, batch in enumerate(loader, 1):
        rows = torch.tensor(len(batch.rows))
        distributed.all_reduce(rows)  # hangs, then fails, if a rank had fewer steps
        assert int(rows) == batch.global_rows
        shares = [None] * world_size
        distributed.all_gather_object(shares, batch.rows.tolist())
        seen.append([row for share in shares for row in share])
        if step == steps:
            break
    distributed.barrier()
    if rank == 0:
        state.write_text(json.dumps(loader.state_dict()))
        print(json.dumps(seen))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
