import os
import subprocess
import sys

import pytest

from sde_diffusion.training.memory import keep_freed_memory

_PROGRAM = """
import resource, torch
from sde_diffusion.training.memory import keep_freed_memory

assert {told}
def step():
    parts = [torch.ones(2**18) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(told: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**17)  # where glibc starts, before it adapts
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(told=told)], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc's malloc")
def test_blocks_that_were_freed_are_used_again_without_page_faults():
    # 80 blocks of 1 MiB are 20480 pages of 4 KiB; without keeping, all of them are faulted in anew
    assert _faults("keep_freed_memory()") < 500
    assert _faults("True") > 5000


def test_another_c_library_is_left_alone(monkeypatch):
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
