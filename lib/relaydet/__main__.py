"""`python -m relaydet`: what `relaydet` is, for torchrun and for where no script was installed."""

import sys

# `python -m` looks into the current folder first, which may have a queue.py of the user's. What
# Python itself imports before this line (pkgutil, say) is still taken from there.
sys.path.append(sys.path.pop(0))

from relaydet.cli import main

sys.exit(main())
