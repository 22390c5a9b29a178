"""Python imports this in every process of a platform under test, because `tests/faults/hooks` is on its path.

`VITALGRID` settings stay what they are; the words of `FAULTS_HOOKS` (JSON) say what is put in the way, see `hooks.py`.
"""

import os

if os.environ.get("FAULTS_HOOKS"):
    import fault_hooks

    fault_hooks.install(os.environ["FAULTS_HOOKS"])
