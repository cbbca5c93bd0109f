"""Memory that is freed is used again."""

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
