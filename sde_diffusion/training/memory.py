"""Keeps the memory that a training step frees for the next step.

A step frees its activations at its end. glibc's malloc hands large blocks, and the top of its heap, back to the operating system, and the
next step has them mapped and zeroed again, page by page: thousands of page faults per step. Two numbers of mallopt(3) say from what
size on:

    M_TRIM_THRESHOLD  how much free memory may lie at the top of the heap
    M_MMAP_THRESHOLD  the size from which on a block is mapped by itself, and unmapped when it is freed

Both hold for the whole process, so nothing but a program that trains should set them. benchmarks/training_speed.py measures what they are
worth. The process keeps the memory of its largest step until it ends.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST = 2**31 - 1  # mallopt takes an int
_MOST_MAPPED = 2**25  # what older versions of glibc take, at most


def keep_freed_memory() -> bool:
    """Lets malloc keep up to 2 GiB of freed memory for this process, for as long as it runs.

    The environment variables MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ do the same from outside, without this limit.

    Returns:
        Whether the C library could be told: only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS and Windows have their own malloc
        return False
    mapped = mallopt(_MMAP_THRESHOLD, _MOST) or mallopt(_MMAP_THRESHOLD, _MOST_MAPPED)
    return bool(mallopt(_TRIM_THRESHOLD, _MOST) and mapped)
