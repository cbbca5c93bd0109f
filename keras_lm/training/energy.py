"""Energy, where the machine tells it: the counters of its processors (RAPL) and graphics cards (NVML), read by `zeus`.

Where they are not to be had, that is said. Nothing is estimated from what such a processor might take.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Energy:
    """What a piece of work took.

    Attributes:
        joules: Of processors, their memory and graphics cards together, of all that ran on them; `None` where nothing tells it.
        source: What was read, or why nothing was.
    """

    joules: float | None
    source: str


def measured(work: Callable[[], object]) -> Energy:
    """Runs `work` and reads the counters before and after it.

    Args:
        work: What is done; best for some seconds, since the counters are read a thousand times a second at most.

    Example:

    >>> energy = measured(lambda: sum(range(100_000)))
    >>> (energy.joules is None) == energy.source.startswith("unavailable")
    True
    """
    if importlib.util.find_spec("zeus") is None:
        work()
        return Energy(None, 'unavailable: pip install "keras_lm[energy]" reads it where the machine tells it')
    for name in ("zeus.monitor.energy", "zeus.device.cpu.rapl", "zeus.device.gpu", "zeus.device.gpu.nvidia"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what is missing is said below, once
    from zeus.device.cpu import get_cpus
    from zeus.device.exception import ZeusBaseCPUError, ZeusBaseGPUError
    from zeus.device.gpu import get_gpus
    from zeus.monitor import ZeusMonitor

    missing = []
    for name, look, error in (("processors (RAPL)", get_cpus, ZeusBaseCPUError), ("graphics cards (NVML)", get_gpus, ZeusBaseGPUError)):
        try:
            look()
        except error as reason:
            missing.append(f"{name} tell it to root alone" if "permission" in str(reason).lower() else f"no {name} that tell it")
    if len(missing) == 2:
        work()
        return Energy(None, f"unavailable: {', '.join(missing)}")
    monitor = ZeusMonitor()
    monitor.begin_window("work", sync_execution=False)
    work()
    taken = monitor.end_window("work", sync_execution=False)
    parts = {"processors": taken.cpu_energy, "memory": taken.dram_energy, "graphics cards": taken.gpu_energy}
    told = {name: sum(of.values()) for name, of in parts.items() if of}
    if not told:
        return Energy(None, "unavailable: this machine has counters, but none that tells anything")
    return Energy(sum(told.values()), ", ".join(f"{name} {joules:.0f} J" for name, joules in told.items()))
