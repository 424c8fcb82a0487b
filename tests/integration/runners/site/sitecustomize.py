"""Run vLLM's model runner V2 on a CPU. Test-only: put this folder first on PYTHONPATH.

vLLM ships a V2 runner for CPUs; it only lacks a Triton with a CPU backend. Triton's own interpreter
runs the same kernels on CPU tensors, so nothing of the runner is replaced but what
`triton_interpreter` lists, each with its reason. No installed file is edited: an import hook runs
the patches of a module right after its import. `ENTROSTAT_TEST_PATCHES=0` switches it off.
"""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

if os.environ.get("ENTROSTAT_TEST_PATCHES", "1") == "1":
    os.environ["TRITON_INTERPRET"] = "1"  # read by triton when it is imported
    from triton_interpreter import PATCHES  # type: ignore[import-not-found]  # beside this file

    class _PatchingLoader(importlib.abc.Loader):
        def __init__(self, loader: importlib.abc.Loader) -> None:
            self.loader = loader

        def create_module(self, spec: ModuleSpec) -> ModuleType | None:
            return self.loader.create_module(spec)

        def exec_module(self, module: ModuleType) -> None:
            self.loader.exec_module(module)
            PATCHES[module.__name__](module)

        def __getattr__(self, name: str) -> object:
            return getattr(self.loader, name)

    class _PatchingFinder(importlib.abc.MetaPathFinder):
        """Finds the modules to patch with the other finders, and wraps their loaders."""

        def __init__(self) -> None:
            self.searching: set[str] = set()

        def find_spec(
            self,
            fullname: str,
            path: Sequence[str] | None,
            target: ModuleType | None = None,
        ) -> ModuleSpec | None:
            if fullname not in PATCHES or fullname in self.searching:
                return None
            self.searching.add(fullname)
            try:
                spec = importlib.util.find_spec(fullname)
            finally:
                self.searching.discard(fullname)
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader)
            return spec

    sys.meta_path.insert(0, _PatchingFinder())
