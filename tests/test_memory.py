"""Freed memory is kept where glibc can be told so."""

import subprocess
import sys

CODE = """
import resource, numpy as np
from segkit import memory
kept = memory.keep() if {keep} else False
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    before = faults(); x = np.ones(8 * 2**20); after = faults(); del x  # 64 MB, 16,384 pages
print(kept, after - before)
"""


def second_time(keep: bool) -> tuple[str, int]:
    out = subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True)
    kept, faults = out.stdout.split()
    return kept, int(faults)


def test_a_freed_array_is_taken_again_without_new_pages():
    usual, kept = second_time(False), second_time(True)
    assert kept[0] == str(sys.platform == "linux")
    if kept[0] == "True":
        assert kept[1] < usual[1] / 2  # by itself every page (or huge page) is handed out anew
