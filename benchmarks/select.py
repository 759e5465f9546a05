"""From stored cells to a published selection: seconds and memory for a million candidates and more; see selecting.py.

python benchmarks/select.py --json OUT
"""

import sys

if __name__ == "__main__":
    from selecting import main

    main()
else:
    # Every script beside this file finds it in place of the standard library's `select`, which subprocess and asyncio
    # import: such an importer is given the real one.
    from importlib import import_module
    from pathlib import Path

    here = Path(__file__).parent.resolve()
    beside, sys.path = sys.path, [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    del sys.modules[__name__]
    sys.modules[__name__] = import_module(__name__)
    sys.path = beside
