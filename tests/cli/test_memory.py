"""Memory that is freed is used again, and lies in large pages."""

import pathlib
import platform
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("kept", [False, True])
def test_a_second_touch_costs_no_faults(kept):
    """In a process of its own, since what is set has no way back; 64 MB are 16,384 pages."""
    program = """
        import resource, sys
        from keras_lm.cli.options import keep_memory

        if sys.argv[1] == "True":
            keep_memory()
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(64 << 20)
        before = faults()
        for _ in range(4):
            bytearray(b"1") * (64 << 20)
        print(faults() - before)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(kept)], check=True, capture_output=True, text=True)
    assert (int(result.stdout) < 1000) == kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_large_buffers_lie_in_large_pages():
    settings = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not settings.is_file() or "[never]" in settings.read_text():
        pytest.skip("this system has no such pages")
    program = """
        import re
        from keras_lm.cli.options import keep_memory

        keep_memory()
        kept = bytearray(b"1") * (64 << 20)
        with open("/proc/self/smaps") as file:
            print(sum(map(int, re.findall(r"AnonHugePages: *([0-9]+) kB", file.read()))))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert int(result.stdout) > 32 << 10
