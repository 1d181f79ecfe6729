"""A wall clock that a test steps while a process runs: the process loads `stepped_clock.c`."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class SteppedClock:
    """The wall clock of the processes that run with `environment`; only that one is stepped."""

    def __init__(self, folder: Path) -> None:
        """Keep the library and the offset in *folder*; the offset is 0 at first."""
        self._library, self._offset = folder / "stepped_clock.so", folder / "clock-offset"
        compiler = shutil.which("cc")
        assert compiler is not None, "these tests need a C compiler: apt-get install gcc libc6-dev"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self._library, SOURCE], check=True
        )
        self._offset.write_bytes(bytes(8))

    def step_to(self, seconds: float) -> None:
        """Set the clock to *seconds* ahead of the machine's."""
        with self._offset.open("r+b") as file:  # the processes have mapped this file
            file.write(struct.pack("=q", round(seconds * 1e9)))

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment."""
        assert sys.platform == "linux", "only Linux loads a library by LD_PRELOAD"
        return {"LD_PRELOAD": str(self._library), "STEPPED_CLOCK_FILE": str(self._offset)}
