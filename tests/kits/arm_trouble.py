"""What goes wrong inside a trial's process, for tests/kits/trouble_kit.py: imported there and nowhere else.

nan      the arm's learning rate is a great power of ten, beyond what the command line allows: it diverges
host     an epoch asks PyTorch for more memory than any machine has
slow     an epoch begins later
pause    an epoch waits for Trouble.go_on
gpu      an epoch takes all memory of the GPU, block by block
kernel   an epoch joins a memory group that is too small, and eats until the kernel kills its process
"""

import json
import os
import time
from pathlib import Path

ABSURD = 1e30
PAUSED_AT_MOST_S = 120
BLOCKS = 32  # of a GPU's memory


def install(session, read) -> None:
    """Wrap the epochs of `session`; `read(name)` gives the text of one of the test's files."""
    real = session.prepare_epoch

    def prepare_epoch(self):
        fault = json.loads(read("arms") or "{}").get(f"{self.config.train.learning_rate:g}")
        if fault and fault["epoch"] in (None, self.progress.epoch + 1):
            FAULTS[fault["fault"]](self, fault, read)
        return real(self)

    session.prepare_epoch = prepare_epoch


def _diverge(self, fault, read) -> None:
    train = self.config.train.model_copy(update={"learning_rate": ABSURD})
    self.config = self.config.model_copy(update={"train": train})
    self._stepper = None  # built anew, with this rate


def _ask_for_too_much(self, fault, read) -> None:
    import torch

    torch.empty(1 << 46, dtype=torch.uint8)


def _eat(self, fault, read) -> None:
    (Path(fault["group"]) / "cgroup.procs").write_text(str(os.getpid()))
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1 << 20) * 16))


def _pause(self, fault, read):
    deadline_s = time.monotonic() + PAUSED_AT_MOST_S
    while not read("go-on") and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _slow(self, fault, read):
    time.sleep(fault["lasts_s"])


def _fill_the_gpu(self, fault, read):
    import torch

    torch.cuda.reset_peak_memory_stats()
    total_bytes, blocks = torch.cuda.get_device_properties(0).total_memory, []
    while True:
        blocks.append(torch.empty(total_bytes // BLOCKS, dtype=torch.uint8, device="cuda"))


FAULTS = {
    "gpu": _fill_the_gpu,
    "pause": _pause,
    "slow": _slow,
    "nan": _diverge,
    "host": _ask_for_too_much,
    "kernel": _eat,
}
