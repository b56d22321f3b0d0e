"""Memory that one training step frees and the next one takes again."""

import ctypes

# of mallopt in <malloc.h>: one heap for all threads, arrays of any size in it, two gigabytes of it kept when they are freed
OPTIONS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**31 - 1)}


def keep() -> bool:
    """From now on glibc keeps freed arrays for the next ones; False where there is no glibc (not Linux).

    By itself it gives each large array back to the system, which hands it out again page by page and zeroed: a third of the time of a 3D
    network's step on two cores (``benchmarks/bench_memory.py``). To be called before TensorFlow starts its threads; the Makefile says
    the same to Jupyter by environment variables, which a kernel needs, since it has threads from its start. The price is that memory
    stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(*option) for option in OPTIONS.values()])
