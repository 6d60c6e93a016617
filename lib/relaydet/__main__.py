"""`python -m relaydet`: what `relaydet` is, for torchrun and for where no script was installed."""

import sys

from relaydet.cli import main

sys.exit(main())
