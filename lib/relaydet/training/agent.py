"""torch.distributed.run, watched: `python -m relaydet.training.agent FOLDER [its arguments]`.

It tells the channel which rank failed and how, and asks the ranks to stop where the program that
launched it is gone: whoever holds the other end of this process's standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from relaydet.training.channel import Channel

ORPHAN_SECONDS = 900.0
"""How long ranks may take to save, once nobody waits for them."""


def main(arguments: Sequence[str]) -> int:
    """Run torchrun's own main with these arguments; 1 where a rank failed."""
    channel = Channel(Path(arguments[0]))
    threading.Thread(target=_watch, args=(channel,), daemon=True).start()
    try:
        run.run(run.parse_args(list(arguments[1:])))
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            how = failure.signal_name() if failure.exitcode < 0 else f"code {failure.exitcode}"
            channel.tell(ended={"rank": rank, "how": how, "at": failure.timestamp})
        return 1
    return 0


def _watch(channel: Channel) -> None:
    # Until the launching program closes it, or is no more. Python could not end while a thread is
    # inside sys.stdin.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    channel.ask_to_stop("the program that launched it is gone")
    time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
