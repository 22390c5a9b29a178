"""`python -m cluster.child MODULE`: a child process of `vitalgrid up`, which is ready sooner this way."""

from __future__ import annotations

import runpy
import sys

from runtime.garbage import look_seldom_while_loading

if __name__ == "__main__":
    look_seldom_while_loading()
    del sys.argv[0]  # the module is what was called
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
