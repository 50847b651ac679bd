"""Adds to the package what `eventml demo` runs; everything else is in pyproject.toml."""

from pathlib import Path
from typing import Final

from setuptools import setup
from setuptools.command.build_py import build_py

DEMO: Final = ("examples/rides", "examples/monitoring")


class BuildWithDemo(build_py):
    """Copies the rides example into the package. An editable install finds it in the repository."""

    def run(self) -> None:
        """Build the package, and copy the example."""
        super().run()
        if not self.editable_mode:
            for file in (file for folder in DEMO for file in sorted(Path(folder).glob("*.*"))):
                target = Path(self.build_lib, "eventml", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithDemo})
