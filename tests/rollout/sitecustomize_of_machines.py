"""For Python on booted machines: keep what it compiled of Ansible's modules.

Ansible sends each call as sources in a zip, of which Python keeps nothing: a playbook would compile `basic.py` and
fifty more a hundred times, over a third of what a machine does in these tests. The modules themselves run as ever.
"""

# ruff: noqa: PTH123, PTH104 - every Python of a machine reads this as it starts, and pathlib takes time to load.

import _imp
import contextlib
import marshal
import os
import zipimport

KEPT = "/var/cache/compiled"
_compile = zipimport._compile_source


def _compile_once(path, source):
    kept = f"{KEPT}/{_imp.source_hash(0, source).hex()}"
    with contextlib.suppress(OSError, EOFError, ValueError), open(kept, "rb") as file:
        return marshal.load(file)
    code = _compile(path, source)
    with contextlib.suppress(OSError):  # Another user's program keeps nothing.
        with open(f"{kept}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.rename(f"{kept}.{os.getpid()}", kept)
    return code


zipimport._compile_source = _compile_once
