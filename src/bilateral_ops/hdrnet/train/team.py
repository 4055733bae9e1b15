"""The processes that train together, and whether they are to stop."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed.nn  # before there is a process group: its functions' defaults would keep that one
from torch import distributed


@dataclass(frozen=True)
class Team:
    """The processes that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[Team]:
        """As torchrun's environment says."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or distributed.is_initialized():
            yield cls() if size == 1 else cls(distributed.get_rank(), distributed.get_world_size())
            return
        distributed.init_process_group("gloo")
        try:
            yield cls(distributed.get_rank(), size)
        finally:
            # The group's threads end with it, and it with DistributedDataParallel's cycles of references. A thread
            # that frees a tensor after Python has ended aborts the process.
            gc.collect()
            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agree(self, number: float) -> float:
        """The first process's number."""
        if self.size == 1:
            return number
        shared = torch.tensor([number], dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)


class Stop:
    """Whether Ctrl-C was pressed, once: the second time interrupts at once."""

    asked = False

    @classmethod
    @contextmanager
    def asked_for(cls, team: Team) -> Iterator[Stop]:
        stop = cls()
        if team.size > 1 or threading.current_thread() is not threading.main_thread():
            yield stop
            return

        def ask(*_: Any) -> None:
            stop.asked = True
            signal.signal(signal.SIGINT, earlier)

        earlier = signal.signal(signal.SIGINT, ask)
        try:
            yield stop
        finally:
            signal.signal(signal.SIGINT, earlier)
